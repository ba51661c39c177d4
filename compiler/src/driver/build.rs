//! From a quantized network to files: kernels, manifest, object, library, header.
use super::model::{Model, Quantized};
use crate::{
    Code, Error, Result,
    artifact::{
        CName,
        bundle::{self, Bundle},
        manifest,
    },
    codegen::{LayerReport, Target},
};
use goshawk_ir::text;
use goshawk_passes::memory;
use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
};

/// Kind of an output file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Shared library.
    Shared,
    /// Static library.
    Archive,
    /// Relocatable object.
    Object,
    /// C header.
    Header,
    /// JSON manifest.
    Manifest,
    /// Text of the integer network.
    Gir,
    /// Assembly listing.
    Asm,
}

impl Kind {
    /// Every kind with its ending.
    pub const ALL: [(Self, &'static str); 7] = [
        (Self::Shared, "so"),
        (Self::Archive, "a"),
        (Self::Object, "o"),
        (Self::Header, "h"),
        (Self::Manifest, "json"),
        (Self::Gir, "gir"),
        (Self::Asm, "s"),
    ];

    /// The kind of a file with this ending; `asm` is another name of `s`.
    pub fn from_ending(ending: &str) -> Option<Self> {
        let ending = if ending == "asm" { "s" } else { ending };
        Self::ALL.iter().find(|(_, e)| *e == ending).map(|(k, _)| *k)
    }

    /// Ending of its files.
    pub fn ending(self) -> &'static str {
        Self::ALL.iter().find(|(k, _)| *k == self).map_or("", |(_, e)| e)
    }

    /// Whether machine code is needed for it.
    pub const fn needs_code(self) -> bool {
        match self {
            Self::Shared | Self::Archive | Self::Object | Self::Header | Self::Manifest | Self::Asm => true,
            Self::Gir => false,
        }
    }
}

/// Which files to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outputs {
    /// C prefix of the network.
    pub name: CName,
    /// Files by kind.
    pub files: Vec<(Kind, PathBuf)>,
}

impl Outputs {
    /// The files for `-o PATH`, `--emit KINDS` and `--name NAME`.
    ///
    /// The ending of `PATH` decides its kind; libraries and objects come with header and manifest, named after the C
    /// prefix. More kinds from `emit` are written beside it. The prefix is the file's name without `lib` and ending.
    ///
    /// # Errors
    /// [`Code::FILE`]: the ending is unknown; the prefix is no C identifier.
    pub fn new(path: &Path, emit: &[Kind], name: Option<&str>) -> Result<Self> {
        let kind = path.extension().and_then(|e| e.to_str()).and_then(Kind::from_ending);
        let Some(kind) = kind else {
            return Err(Error::new(Code::FILE, format!("cannot tell what to write to {}", path.display()))
                .because("the ending decides the kind of the output")
                .help("end it in .so, .a, .o, .gir or .s; --emit so,a,h adds more kinds"));
        };
        let stem = path.file_stem().and_then(|s| s.to_str()).unwrap_or_default();
        let name = match name {
            Some(name) => CName::new(name)?,
            None => CName::from_model_name(stem.strip_prefix("lib").unwrap_or(stem)),
        };
        let beside = |kind: Kind| {
            let lib = if matches!(kind, Kind::Shared | Kind::Archive) { "lib" } else { "" };
            path.with_file_name(format!("{lib}{}.{}", name.as_str(), kind.ending()))
        };
        let mut files = vec![(kind, path.to_owned())];
        let companions = match kind {
            Kind::Shared | Kind::Archive | Kind::Object => &[Kind::Header, Kind::Manifest][..],
            Kind::Header | Kind::Manifest | Kind::Gir | Kind::Asm => &[],
        };
        for kind in companions.iter().chain(emit) {
            if !files.iter().any(|(k, _)| k == kind) {
                files.push((*kind, beside(*kind)));
            }
        }
        Ok(Self { name, files })
    }

    fn has(&self, kind: Kind) -> bool {
        self.files.iter().any(|(k, _)| *k == kind)
    }
}

/// Everything that compilation made, in memory.
#[derive(Clone, Debug)]
pub struct Build {
    /// Files to write, in order.
    pub files: Vec<(PathBuf, Vec<u8>)>,
    /// What each layer became at the best level; empty without machine code.
    pub layers: Vec<LayerReport>,
    /// The same at the other levels.
    pub fallbacks: Vec<Vec<LayerReport>>,
    /// Bytes of the arena.
    pub arena_bytes: usize,
    /// What no memory plan can undercut, the kernels' scratch area included.
    pub arena_lower_bound: usize,
    /// Bytes of stack that a run takes at most.
    pub stack_bytes: u32,
}

/// Generates the files, with code for every one of `levels`. Nothing is written.
///
/// # Errors
/// [`Code::TARGET`], [`Code::LINKER`]; [`Code::INTERNAL`] for defects.
pub fn build(
    model: &Model,
    quantized: &Quantized,
    levels: &[Target],
    outputs: &Outputs,
    linker: Option<&OsStr>,
) -> Result<Build> {
    let needs_code = outputs.files.iter().any(|(k, _)| k.needs_code());
    let bundle = match needs_code {
        true => Some(compile(model, quantized, levels, &outputs.name, outputs.has(Kind::Asm))?),
        false => None,
    };
    let (mut files, mut described) = (Vec::new(), Vec::new());
    for (kind, path) in &outputs.files {
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        let bytes = match (kind, &bundle) {
            (Kind::Gir, _) => text::print(&quantized.graph).into_bytes(),
            (Kind::Shared, Some(b)) => b.shared(name, linker)?,
            (Kind::Archive, Some(b)) => b.archive()?,
            (Kind::Object, Some(b)) => b.object.bytes.clone(),
            (Kind::Header, Some(b)) => b.header.clone().into_bytes(),
            (Kind::Asm, Some(b)) => b.object.asm.clone().into_bytes(),
            // The manifest describes the other files: it comes last.
            (Kind::Manifest, _) | (_, None) => continue,
        };
        described.push(manifest::File::new(name, &bytes));
        files.push((path.clone(), bytes));
    }
    let Some(bundle) = bundle else {
        let memory = memory::plan(&quantized.graph).map_err(|e| Error::from_ir(Code::QUANTIZE, e))?;
        let (arena_bytes, arena_lower_bound) = (memory.arena_bytes, memory.lower_bound);
        return Ok(Build {
            files,
            layers: Vec::new(),
            fallbacks: Vec::new(),
            arena_bytes,
            arena_lower_bound,
            stack_bytes: 0,
        });
    };
    for (_, path) in outputs.files.iter().filter(|(k, _)| *k == Kind::Manifest) {
        files.push((path.clone(), bundle.manifest_file(described.clone())?.into_bytes()));
    }
    let arena_lower_bound = bundle.network.origin.arena_lower_bound;
    let object = bundle.object;
    let (arena_bytes, stack_bytes) = (object.arena_bytes, object.stack_bytes);
    let (layers, fallbacks) = (object.layers, object.fallbacks);
    Ok(Build { files, layers, fallbacks, arena_bytes, arena_lower_bound, stack_bytes })
}

/// The bytes of a shared library for this machine's loader, for measurements.
///
/// # Errors
/// As [`build`].
pub fn shared_library(
    model: &Model,
    quantized: &Quantized,
    target: &Target,
    name: &CName,
) -> Result<Vec<u8>> {
    compile(model, quantized, std::slice::from_ref(target), name, false)?
        .shared(&format!("lib{}.so", name.as_str()), None)
}

fn compile(
    model: &Model,
    quantized: &Quantized,
    levels: &[Target],
    name: &CName,
    listing: bool,
) -> Result<Bundle> {
    bundle::compile(bundle::Request {
        graph: &quantized.graph,
        levels,
        prefix: name.clone(),
        model_sha256: model.sha256.clone(),
        listing,
        tuning: quantized.tuning.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(path: &str, emit: &[Kind], name: Option<&str>) -> Vec<String> {
        let outputs = Outputs::new(Path::new(path), emit, name).expect("valid");
        outputs.files.iter().map(|(_, p)| p.display().to_string()).collect()
    }

    #[test]
    fn the_ending_decides_and_emit_adds() {
        assert_eq!(files("out/libnet.so", &[], None), ["out/libnet.so", "out/net.h", "out/net.json"]);
        assert_eq!(
            files("a.o", &[Kind::Gir, Kind::Archive, Kind::Object], Some("m")),
            ["a.o", "m.h", "m.json", "m.gir", "libm.a"]
        );
        assert_eq!(files("net.gir", &[], None), ["net.gir"]);
        assert_eq!(files("net.asm", &[], None), ["net.asm"]);
        assert!(Outputs::new(Path::new("net"), &[], None).is_err_and(|e| e.remedy.is_some()));
        assert!(Outputs::new(Path::new("net.so"), &[], Some("1 x")).is_err());
    }
}
