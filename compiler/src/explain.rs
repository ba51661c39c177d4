//! What every error code means, for `goshawk explain`.
use crate::Code;

/// A code, its title, and what a user should know about it.
pub struct Explanation {
    /// The code.
    pub code: Code,
    /// A few words.
    pub title: &'static str,
    /// Cause and remedy.
    pub text: &'static str,
}

/// The explanation of a code given as `E0101`, `e101` or `101`.
pub fn find(text: &str) -> Option<&'static Explanation> {
    let number: u16 = text.trim().trim_start_matches(['E', 'e']).parse().ok()?;
    EXPLANATIONS.iter().find(|e| e.code.0 == number)
}

/// Every code, in order.
pub const EXPLANATIONS: &[Explanation] = &[
    Explanation {
        code: Code::MODEL,
        title: "the model file cannot be decoded",
        text: "The file is truncated, is not an ONNX model, was written with an opset outside 7 to 21, or breaks one of \
               the limits that keep a hostile file from exhausting memory (file size, number of nodes, rank, dimensions, \
               bytes of all tensors).\n\nCheck the file with the exporter's own tools (`onnx.checker.check_model`) and \
               export it again; raise the opset with `onnx.version_converter` where it is too old.",
    },
    Explanation {
        code: Code::GRAPH,
        title: "the graph of the model is not well formed",
        text: "A node reads a tensor that nothing makes, two nodes make the same tensor, the nodes form a cycle, or \
               shapes do not fit each other. The message names the node and the tensor.\n\nSuch files come from \
               hand-made edits or defective exporters; export the model again.",
    },
    Explanation {
        code: Code::EXTERNAL_DATA,
        title: "the model refers to data outside of its file",
        text: "Weights of large models can lie in separate files. A model file must not decide which files are read, \
               so goshawk reads none unless the folder is given with `--external-data DIR`, and then only files inside \
               of it.\n\nGive the folder, or save the model as one file: `onnx.save(model, path, \
               save_as_external_data=False)`.",
    },
    Explanation {
        code: Code::SYMBOLIC_DIM,
        title: "a dimension has no number",
        text: "goshawk plans memory and code at compile time, so every dimension must be known. Models are often \
               exported with a symbolic batch size such as `N` or `batch_size`.\n\nFix it with `--set-dim N=1`.",
    },
    Explanation {
        code: Code::NON_FINITE,
        title: "weights hold NaN or infinity",
        text: "A weight that is not a finite number has no quantized form and makes every result that depends on it \
               meaningless. The message names the tensor.\n\nThe training run probably diverged; export an earlier \
               checkpoint.",
    },
    Explanation {
        code: Code::UNSUPPORTED,
        title: "the model uses operators that goshawk does not support",
        text: "All of them are listed at once with node, tensor, reason and remedy. `goshawk ops` prints what is \
               supported, `goshawk inspect` shows the list without compiling.\n\nDetection models often end in \
               post-processing (NonMaxSuppression, TopK): cut the model before it with `onnx.utils.extract_model` and \
               do it in your own code.",
    },
    Explanation {
        code: Code::DATA,
        title: "calibration or test data cannot be used",
        text: "The set is empty, a file is damaged, an array has another shape than the network's input, values are NaN or \
               infinite, or the preprocessing specification is malformed. The message names file, array, row and \
               shape.\n\nData sets are `.npy`, `.npz` (arrays named like the inputs, or `x`; labels in `y`), idx files, a \
               folder of images, or a PNG with one image a row (`--rows H,W,C`). Preprocessing is a preset, a TOML \
               file, or flags; see `goshawk compile --help`.",
    },
    Explanation {
        code: Code::BITS,
        title: "the bits file is malformed or does not fit the model",
        text: "A bits file lists widths by layer; a layer has the name of the tensor that it makes:\n\n    default = { \
               weights = 8, activations = 8 }\n    [layers]\n    \"conv2\" = { weights = 4, activations = 8 }\n\n\
               Unknown layers and keys are refused, because a misspelt name would silently keep the default. Layers that \
               read the same tensor share one quantizer and so one activation width.\n\n`goshawk inspect MODEL \
               --bits-template bits.toml` writes a file with every layer.",
    },
    Explanation {
        code: Code::QUANTIZE,
        title: "the network cannot be quantized as asked",
        text: "A tensor has no calibrated range, an accumulator of 32 bit could overflow, or a combination of operators \
               has no integer form. The message names the node.\n\nUse a calibration profile made from this model, give \
               more calibration samples, or give the layer other widths in the bits file.",
    },
    Explanation {
        code: Code::TARGET,
        title: "the target is unknown or unsupported",
        text: "`--target` takes a triple (x86_64-unknown-linux-gnu, aarch64-unknown-linux-gnu), `--target-cpu` a level \
               (native, x86-64, x86-64-v3, x86-64-v4 …). Running compiled code (run, eval, bench) needs a target that \
               this machine can execute.",
    },
    Explanation {
        code: Code::FILE,
        title: "a file cannot be read or written",
        text: "The operating system's reason is in the message. Outputs are written to a temporary file in the target \
               folder and renamed when complete, so a failed command leaves older outputs as they were.",
    },
    Explanation {
        code: Code::LINKER,
        title: "the system linker is missing or failed",
        text: "`--linker cc` was asked for and the program could not be started or reported an error. goshawk writes \
               shared libraries by itself: leave `--linker` out.",
    },
    Explanation {
        code: Code::RUN,
        title: "a compiled library cannot be loaded or refused to run",
        text: "The file is no library compiled by goshawk for this ABI version, or this CPU lacks an instruction set that \
               it was compiled for.\n\nCompile for this machine: `--target-cpu native`, or `x86-64` for every x86-64 CPU.",
    },
    Explanation {
        code: Code::INTERRUPTED,
        title: "the command was interrupted",
        text: "Ctrl-C ended the command before its output was complete; nothing half-written is left behind.",
    },
    Explanation {
        code: Code::INTERNAL,
        title: "a defect of goshawk",
        text: "A rule that goshawk itself guarantees does not hold. Please report it with the command and, if possible, \
               the model.",
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    /// The numbers of all codes, from the source: a new one without an explanation fails here.
    fn codes() -> Vec<u16> {
        let number = |line: &str| line.split_once(": Self = Self(")?.1.strip_suffix(");")?.parse().ok();
        include_str!("error.rs").lines().filter_map(number).collect()
    }

    #[test]
    fn every_code_is_explained_once_and_in_order() {
        let explained: Vec<u16> = EXPLANATIONS.iter().map(|e| e.code.0).collect();
        assert!(codes().len() >= 15);
        assert_eq!(explained, codes());
    }

    #[test]
    fn codes_are_found_as_users_write_them() {
        for text in ["E0301", "e0301", "301", " E301 "] {
            assert!(find(text).is_some_and(|e| e.code == Code::DATA), "{text}");
        }
        assert!(find("E9999").is_none() && find("x").is_none());
    }
}
