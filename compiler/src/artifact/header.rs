//! The C header of a compiled network: C99 and C++11, no include but `<stddef.h>` and `<stdint.h>`.
//!
//! The part that all networks share is quoted from the runtime crate's `goshawk.h` behind its guard, so headers of
//! several networks can be included together.
use super::network::{Network, PortFacts};
use goshawk_runtime::abi::{ARENA_ALIGN, COMMON_HEADER};
use std::fmt::Write;

/// Prints the header. `stack_bytes` bounds the stack that a run needs.
pub fn render(network: &Network, stack_bytes: u32) -> String {
    let (p, up) = (network.prefix.as_str(), network.prefix.upper());
    let mut h = String::new();
    let _ = write!(
        h,
        "/* {p}.h: network {name}, compiled by goshawk {version}.\n *\n * model sha256: {sha}\n * target: {isa}\n",
        name = comment(&network.name),
        version = env!("CARGO_PKG_VERSION"),
        sha = if network.origin.model_sha256.is_empty() { "none" } else { &network.origin.model_sha256 },
        isa = comment(network.origin.isa()),
    );
    for isa in network.origin.levels.iter().skip(1) {
        let _ = writeln!(h, " * or: {}", comment(isa));
    }
    h.push_str(" *\n");
    let _ = write!(
        h,
        " * A run reads the inputs, writes the outputs, uses the arena as scratch memory and keeps nothing: calls with\n\
         \x20* different arenas may run at the same time. It allocates nothing and calls nothing but the\n\
         \x20* executor. With GOSHAWK_POOL defined before it is included, this header has a pool of threads to be one.\n */\n\
         #ifndef GOSHAWK_MODEL_{up}_H\n#define GOSHAWK_MODEL_{up}_H\n\n{COMMON_HEADER}\n\
         /* Scratch memory and stack that a run needs, in bytes; the stack without the executor's own, and also of each of its\n\
         \x20* threads. */\n"
    );
    define(&mut h, &up, "ARENA_BYTES", &format!("{}u", network.origin.arena_bytes));
    define(&mut h, &up, "ARENA_ALIGN", &format!("{ARENA_ALIGN}u"));
    define(&mut h, &up, "STACK_BYTES", &format!("{stack_bytes}u"));
    h.push_str(
        "\n/* Tensors: real = SCALE * (q - ZERO_POINT). SHAPE is that of the integer entry point. */\n",
    );
    for (kind, ports) in [("INPUT", &network.inputs), ("OUTPUT", &network.outputs)] {
        define(&mut h, &up, &format!("{kind}_COUNT"), &format!("{}u", ports.len()));
        for (i, port) in ports.iter().enumerate() {
            tensor_macros(&mut h, &format!("{up}_{kind}{i}"), port);
        }
    }
    h.push_str("\n#ifdef __cplusplus\nextern \"C\" {\n#endif\n");
    structs(&mut h, network);
    let _ = write!(
        h,
        "\n/* Runs the network on integers. `arena` has {up}_ARENA_BYTES bytes aligned to {up}_ARENA_ALIGN; `executor` is\n\
         \x20* NULL for one thread. Buffers must not overlap. Returns GOSHAWK_OK, or GOSHAWK_E_* and, but for\n\
         \x20* GOSHAWK_E_PARALLEL, has written nothing. */\n\
         int {p}_run(const {p}_inputs *inputs, const {p}_outputs *outputs, void *arena,\n            \
         const goshawk_executor *executor);\n\n\
         /* The same on floats: quantizes the inputs, runs, dequantizes the outputs. */\n\
         int {p}_run_f32(const {p}_inputs_f32 *inputs, const {p}_outputs_f32 *outputs, void *arena,\n                \
         const goshawk_executor *executor);\n\n\
         /* Index of the instruction sets that runs on this CPU use: 0 for the target above, 1 for the first one of those\n\
         \x20* below it, -1 where the CPU has none of them and runs return GOSHAWK_E_ISA. */\n\
         int {p}_level(void);\n\n\
         /* Describes the network at run time; never NULL. */\n\
         const goshawk_model_info *{p}_info(void);\n\n\
         #ifdef __cplusplus\n}}\n#endif\n\n#endif /* GOSHAWK_MODEL_{up}_H */\n"
    );
    h
}

fn structs(h: &mut String, network: &Network) {
    let p = network.prefix.as_str();
    let mut structure = |name: &str, title: &str, ports: &[PortFacts], constant: &str, float: bool| {
        let _ = writeln!(h, "\n/* {title} */\ntypedef struct {p}_{name} {{");
        for port in ports {
            let (ty, dims) = if float { ("float", &port.f32_dims) } else { (port.c_type(), &port.dims) };
            let _ = writeln!(h, "    {constant}{ty} *{}; /* {} */", port.field, shape(dims, " x "));
        }
        let _ = writeln!(h, "}} {p}_{name};");
    };
    let (inputs, outputs) = (&network.inputs, &network.outputs);
    structure("inputs", "Inputs of the integer entry point, NHWC for images.", inputs, "const ", false);
    structure("outputs", "Outputs of the integer entry point.", outputs, "", false);
    structure(
        "inputs_f32",
        "Inputs of the f32 entry point, laid out as in the ONNX model.",
        inputs,
        "const ",
        true,
    );
    structure("outputs_f32", "Outputs of the f32 entry point.", outputs, "", true);
}

fn tensor_macros(h: &mut String, prefix: &str, port: &PortFacts) {
    let initialiser = |dims: &[usize]| format!("{{{}}}", shape(dims, ", "));
    define(h, prefix, "NAME", &literal(&port.name));
    define(h, prefix, "ELEMENTS", &format!("{}u", port.elements()));
    define(h, prefix, "BYTES", &format!("{}u", port.bytes()));
    define(h, prefix, "RANK", &port.dims.len().to_string());
    define(h, prefix, "SHAPE", &initialiser(&port.dims));
    define(h, prefix, "F32_SHAPE", &initialiser(&port.f32_dims));
    define(h, prefix, "BITS", &port.bits.to_string());
    // Nine significant digits name an f32 exactly; hexadecimal literals are not C++11.
    define(h, prefix, "SCALE", &format!("{:.8e}f", port.scale));
    define(h, prefix, "ZERO_POINT", &port.zero_point.to_string());
}

fn define(h: &mut String, prefix: &str, name: &str, value: &str) {
    let _ = writeln!(h, "#define {prefix}_{name} {value}");
}

/// Dimensions; a scalar is one element.
fn shape(dims: &[usize], separator: &str) -> String {
    if dims.is_empty() {
        return "1".into();
    }
    dims.iter().map(usize::to_string).collect::<Vec<_>>().join(separator)
}

/// Text that may stand in a comment.
fn comment(text: &str) -> String {
    let allowed = |c: char| c.is_ascii_alphanumeric() || " _-.,:+()".contains(c);
    text.chars().map(|c| if allowed(c) { c } else { '_' }).collect()
}

/// A C string literal. Whatever is not harmless becomes a three-digit octal escape, so no trigraph, line break or
/// longer escape can arise.
fn literal(text: &str) -> String {
    let mut result = String::from("\"");
    for b in text.bytes() {
        if b.is_ascii_alphanumeric() || b" _-.,:+()/".contains(&b) {
            result.push(b as char);
        } else {
            let _ = write!(result, "\\{b:03o}");
        }
    }
    result + "\""
}

#[cfg(test)]
mod tests {
    use super::{super::network::tests::sample, *};

    #[test]
    fn awkward_names_stay_inside_their_comments_and_strings() {
        let header = render(&sample(), 512);
        assert!(header.starts_with("/* sample.h: network sample _net_ __, compiled by goshawk"));
        assert!(header.contains("#define SAMPLE_OUTPUT0_NAME \"out\\042put\\012\\077\\077/\"\n"));
        assert!(header.contains("    const uint8_t *float_; /* 1 x 4 x 5 x 3 */\n"));
        assert!(header.contains("    const float *float_; /* 1 x 3 x 4 x 5 */\n"));
        assert!(header.contains("#define SAMPLE_INPUT0_SHAPE {1, 4, 5, 3}\n"));
        assert!(header.contains("#define SAMPLE_STACK_BYTES 512u\n"));
    }

    #[test]
    fn scales_are_printed_exactly() {
        for scale in [0.1f32, 1.0, f32::MIN_POSITIVE, f32::MAX, 1.0 / 3.0, 1e-45] {
            let text = format!("{scale:.8e}");
            assert_eq!(text.parse::<f32>().map(f32::to_bits), Ok(scale.to_bits()));
        }
    }
}
