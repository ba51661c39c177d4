//! What code is generated for: a triple and an explicit set of CPU features.
//!
//! Features are never inferred from the host, except for `--target-cpu native`. Each feature knows the Cranelift
//! setting that it turns on and how a compiled library finds out whether the CPU has it (Intel SDM vol. 2A CPUID;
//! Arm ARM ID_AA64ISAR0_EL1 and ID_AA64ISAR1_EL1).
use crate::{Code, Error, Result};
use cranelift_codegen::{
    isa::{self, OwnedTargetIsa},
    settings::{self, Configurable},
};
use std::{collections::BTreeSet, str::FromStr};
use target_lexicon::{Architecture, OperatingSystem, Triple};

/// Processor family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arch {
    /// x86-64.
    X64,
    /// AArch64.
    Aarch64,
}

/// Where a feature bit is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Probe {
    /// CPUID leaf (subleaf 0 or 1), register (0 eax, 1 ebx, 2 ecx, 3 edx), bit.
    Cpuid { leaf: u32, subleaf: u32, register: usize, bit: u32 },
    /// 4-bit field that is not 0: number of the ID_AA64ISARn_EL1 register, lowest bit.
    IdRegister { register: u32, bit: u32 },
}

/// A CPU feature.
#[derive(Debug)]
pub(crate) struct Feature {
    /// Name on the command line.
    pub name: &'static str,
    arch: Arch,
    /// Cranelift's setting; none for features that only assembled kernels use.
    setting: Option<&'static str>,
    pub probe: Probe,
    /// XCR0 bits that the operating system must have enabled.
    pub xcr0: u32,
    implies: &'static [&'static str],
}

const AVX: u32 = 0b110;
const AVX512: u32 = 0b1110_0110;

const fn x64(
    name: &'static str,
    setting: &'static str,
    (leaf, subleaf, register, bit): (u32, u32, usize, u32),
    xcr0: u32,
    implies: &'static [&'static str],
) -> Feature {
    let setting = if setting.is_empty() { None } else { Some(setting) };
    Feature {
        name,
        arch: Arch::X64,
        setting,
        probe: Probe::Cpuid { leaf, subleaf, register, bit },
        xcr0,
        implies,
    }
}

/// All features, each after those that it implies.
pub(crate) const FEATURES: &[Feature] = &[
    x64("sse3", "has_sse3", (1, 0, 2, 0), 0, &[]),
    x64("ssse3", "has_ssse3", (1, 0, 2, 9), 0, &["sse3"]),
    x64("sse4.1", "has_sse41", (1, 0, 2, 19), 0, &["ssse3"]),
    x64("sse4.2", "has_sse42", (1, 0, 2, 20), 0, &["sse4.1"]),
    x64("popcnt", "has_popcnt", (1, 0, 2, 23), 0, &[]),
    x64("avx", "has_avx", (1, 0, 2, 28), AVX, &["sse4.2"]),
    x64("avx2", "has_avx2", (7, 0, 1, 5), AVX, &["avx"]),
    x64("fma", "has_fma", (1, 0, 2, 12), AVX, &["avx"]),
    x64("bmi1", "has_bmi1", (7, 0, 1, 3), 0, &[]),
    x64("bmi2", "has_bmi2", (7, 0, 1, 8), 0, &[]),
    x64("lzcnt", "has_lzcnt", (0x8000_0001, 0, 2, 5), 0, &[]),
    x64("avx512f", "has_avx512f", (7, 0, 1, 16), AVX512, &["avx2", "fma"]),
    x64("avx512vl", "has_avx512vl", (7, 0, 1, 31), AVX512, &["avx512f"]),
    // Cranelift is not told of it: it would multiply i64 lanes by vpmullq (3 µops) where pmuldq does.
    x64("avx512dq", "", (7, 0, 1, 17), AVX512, &["avx512f"]),
    x64("avx512bw", "", (7, 0, 1, 30), AVX512, &["avx512f"]),
    x64("avx512vnni", "has_avx512vnni", (7, 0, 2, 11), AVX512, &["avx512vl", "avx512bw"]),
    x64("avx512vbmi", "has_avx512vbmi", (7, 0, 2, 1), AVX512, &["avx512bw"]),
    x64("avxvnni", "has_avx_vnni", (7, 1, 0, 4), AVX, &["avx2"]),
    Feature {
        name: "dotprod",
        arch: Arch::Aarch64,
        setting: Some("has_dotprod"),
        probe: Probe::IdRegister { register: 0, bit: 44 },
        xcr0: 0,
        implies: &[],
    },
    Feature {
        name: "i8mm",
        arch: Arch::Aarch64,
        setting: Some("has_i8mm"),
        probe: Probe::IdRegister { register: 1, bit: 52 },
        xcr0: 0,
        implies: &["dotprod"],
    },
];

/// Named sets of features.
const CPUS: &[(Arch, &str, &[&str])] = &[
    (Arch::X64, "x86-64", &[]),
    (Arch::X64, "x86-64-v2", &["sse4.2", "popcnt"]),
    (Arch::X64, "x86-64-v3", &["popcnt", "avx2", "fma", "bmi1", "bmi2", "lzcnt"]),
    (
        Arch::X64,
        "x86-64-v4",
        &["popcnt", "avx2", "fma", "bmi1", "bmi2", "lzcnt", "avx512vl", "avx512dq", "avx512bw"],
    ),
    (
        Arch::X64,
        "avx512vnni",
        &["popcnt", "avx2", "fma", "bmi1", "bmi2", "lzcnt", "avx512vl", "avx512dq", "avx512bw", "avx512vnni"],
    ),
    (
        Arch::X64,
        "avx512vbmi",
        &[
            "popcnt",
            "avx2",
            "fma",
            "bmi1",
            "bmi2",
            "lzcnt",
            "avx512vl",
            "avx512dq",
            "avx512bw",
            "avx512vnni",
            "avx512vbmi",
        ],
    ),
    (Arch::X64, "avxvnni", &["popcnt", "avx2", "fma", "bmi1", "bmi2", "lzcnt", "avxvnni"]),
    (Arch::Aarch64, "generic", &[]),
];

/// A triple with CPU features.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    triple: Triple,
    arch: Arch,
    features: BTreeSet<&'static str>,
}

impl Target {
    /// The target named by `triple` (`None`: this machine's) and `cpu`: `native`, a named CPU
    /// (`x86-64`, `x86-64-v2`, `x86-64-v3`, `x86-64-v4`, `avx512vnni` from Cascade Lake on, `avx512vbmi` from Ice Lake
    /// and Zen 4 on, `avxvnni`, `generic`), optionally followed by `+feature` and `-feature`, as in `x86-64-v3+avxvnni`
    /// or `generic+dotprod+i8mm`.
    ///
    /// # Errors
    /// [`Code::TARGET`]: unknown or unsupported triple, CPU or feature.
    pub fn parse(triple: Option<&str>, cpu: &str) -> Result<Self> {
        let error = |what: String| Error::new(Code::TARGET, what);
        let triple = match triple {
            None => Triple::host(),
            Some(t) => Triple::from_str(t).map_err(|e| error(format!("unknown target {t}: {e}")))?,
        };
        let arch = match triple.architecture {
            Architecture::X86_64 => Arch::X64,
            Architecture::Aarch64(_) => Arch::Aarch64,
            _ => {
                return Err(error(format!("no code generation for {triple}"))
                    .help("use x86_64-unknown-linux-gnu or aarch64-unknown-linux-gnu"));
            }
        };
        if triple.operating_system != OperatingSystem::Linux {
            return Err(error(format!("no code generation for {triple}"))
                .because("only Linux objects (ELF) are written")
                .help("use x86_64-unknown-linux-gnu or aarch64-unknown-linux-gnu"));
        }
        let mut target = Self { triple, arch, features: BTreeSet::new() };
        let (base, changes) = split_cpu(cpu, arch);
        let base = if base.is_empty() { target.default_cpu() } else { base };
        if base == "native" {
            target.enable_native()?;
        } else {
            let named = CPUS.iter().find(|(a, name, _)| *a == arch && *name == base);
            let Some((_, _, features)) = named else {
                let known: Vec<_> = CPUS.iter().filter(|c| c.0 == arch).map(|c| c.1).collect();
                return Err(error(format!("unknown CPU {base} for {}", target.triple))
                    .help(format!("use native or one of {}", known.join(", "))));
            };
            for feature in *features {
                target.enable(feature)?;
            }
        }
        for (on, name) in changes {
            if on { target.enable(name)? } else { target.disable(name)? }
        }
        Ok(target)
    }

    /// Several CPUs between commas, as in `x86-64-v3,avx512vnni`: the levels of one library, best first.
    ///
    /// # Errors
    /// As [`Target::parse`]; also levels that are the same, and too many.
    pub fn parse_levels(triple: Option<&str>, cpus: &str) -> Result<Vec<Self>> {
        let levels = cpus.split(',').map(|cpu| Self::parse(triple, cpu.trim()));
        super::entry::order(levels.collect::<Result<_>>()?)
    }

    /// This machine with all its features.
    ///
    /// # Errors
    /// The machine is of an unsupported kind.
    pub fn native() -> Result<Self> {
        Self::parse(None, "native")
    }

    /// Processor family.
    pub const fn arch(&self) -> Arch {
        self.arch
    }

    /// The triple, as `x86_64-unknown-linux-gnu`.
    pub fn triple(&self) -> String {
        self.triple.to_string()
    }

    /// Whether the feature is on.
    pub fn has(&self, feature: &str) -> bool {
        self.features.contains(feature)
    }

    /// Names of the features in alphabetical order.
    pub fn features(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.features.iter().copied()
    }

    /// One word for reports and manifests: architecture and features, as `x86_64+avx+avx2`.
    pub fn isa(&self) -> String {
        let arch = match self.arch {
            Arch::X64 => "x86_64",
            Arch::Aarch64 => "aarch64",
        };
        std::iter::once(arch).chain(self.features()).collect::<Vec<_>>().join("+")
    }

    /// Levels with a larger number are preferred: the widest dot product first, then the number of features.
    pub(crate) fn worth(&self) -> (usize, usize) {
        let ladder = ["ssse3", "avx2", "avxvnni", "avx512vl", "avx512vnni", "dotprod", "i8mm"];
        let step = ladder.iter().rposition(|f| self.has(f)).map_or(0, |i| i + 1);
        (step, self.features.len())
    }

    /// Whether code for this target runs on this machine, so that it can be compiled with the JIT.
    pub fn runs_here(&self) -> bool {
        Self::native().is_ok_and(|n| n.arch == self.arch && self.features.is_subset(&n.features))
    }

    /// Features that the compiled code must look for, in the order of [`FEATURES`].
    pub(crate) fn required(&self) -> impl Iterator<Item = &'static Feature> + '_ {
        FEATURES.iter().filter(|f| f.arch == self.arch && self.has(f.name))
    }

    /// Cranelift's back end for this target. `baseline`: without any optional feature, for code that runs before the
    /// CPU check.
    pub(crate) fn isa_for(&self, speed: bool, baseline: bool) -> Result<OwnedTargetIsa> {
        let fail = |e: &dyn std::fmt::Display| Error::new(Code::TARGET, format!("{}: {e}", self.triple));
        let mut flags = settings::builder();
        for (name, value) in [
            ("opt_level", if speed { "speed" } else { "none" }),
            ("is_pic", "false"),
            ("use_colocated_libcalls", "true"),
            ("preserve_frame_pointers", "true"),
            ("enable_probestack", "false"),
            ("unwind_info", "true"),
            ("enable_verifier", if cfg!(test) { "true" } else { "false" }),
        ] {
            flags.set(name, value).map_err(|e| fail(&e))?;
        }
        let mut builder = isa::lookup(self.triple.clone()).map_err(|e| fail(&e))?;
        for feature in FEATURES.iter().filter(|f| f.arch == self.arch) {
            if let Some(setting) = feature.setting {
                let on = self.has(feature.name) && !baseline;
                builder.set(setting, if on { "true" } else { "false" }).map_err(|e| fail(&e))?;
            }
        }
        builder.finish(settings::Flags::new(flags)).map_err(|e| fail(&e))
    }

    const fn default_cpu(&self) -> &'static str {
        match self.arch {
            Arch::X64 => "x86-64",
            Arch::Aarch64 => "generic",
        }
    }

    fn feature(&self, name: &str) -> Result<&'static Feature> {
        FEATURES.iter().find(|f| f.arch == self.arch && f.name == name).ok_or_else(|| {
            let known: Vec<_> = FEATURES.iter().filter(|f| f.arch == self.arch).map(|f| f.name).collect();
            Error::new(Code::TARGET, format!("unknown CPU feature {name} for {}", self.triple))
                .help(format!("known features: {}", known.join(", ")))
        })
    }

    fn enable(&mut self, name: &str) -> Result<()> {
        let feature = self.feature(name)?;
        self.features.insert(feature.name);
        for implied in feature.implies {
            self.enable(implied)?;
        }
        Ok(())
    }

    /// Removes the feature and all that imply it.
    fn disable(&mut self, name: &str) -> Result<()> {
        let feature = self.feature(name)?;
        self.features.remove(feature.name);
        let arch = self.arch;
        for other in FEATURES.iter().filter(|f| f.arch == arch && f.implies.contains(&feature.name)) {
            self.disable(other.name)?;
        }
        Ok(())
    }

    #[cfg(target_arch = "x86_64")]
    fn enable_native(&mut self) -> Result<()> {
        if self.arch != Arch::X64 {
            return Err(self.not_native());
        }
        macro_rules! detect {
            ($($name:literal => $rust:tt),* $(,)?) => {
                $(if std::arch::is_x86_feature_detected!($rust) { self.features.insert($name); })*
            };
        }
        detect!(
            "sse3" => "sse3", "ssse3" => "ssse3", "sse4.1" => "sse4.1", "sse4.2" => "sse4.2", "popcnt" => "popcnt",
            "avx" => "avx", "avx2" => "avx2", "fma" => "fma", "bmi1" => "bmi1", "bmi2" => "bmi2", "lzcnt" => "lzcnt",
            "avx512f" => "avx512f", "avx512vl" => "avx512vl", "avx512dq" => "avx512dq", "avx512bw" => "avx512bw",
            "avx512vnni" => "avx512vnni", "avx512vbmi" => "avx512vbmi", "avxvnni" => "avxvnni",
        );
        Ok(())
    }

    #[cfg(target_arch = "aarch64")]
    fn enable_native(&mut self) -> Result<()> {
        if self.arch != Arch::Aarch64 {
            return Err(self.not_native());
        }
        if std::arch::is_aarch64_feature_detected!("dotprod") {
            self.features.insert("dotprod");
            if std::arch::is_aarch64_feature_detected!("i8mm") {
                self.features.insert("i8mm");
            }
        }
        Ok(())
    }

    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    fn enable_native(&mut self) -> Result<()> {
        Err(self.not_native())
    }

    fn not_native(&self) -> Error {
        Error::new(Code::TARGET, format!("`native` does not apply to {}", self.triple))
            .because("this machine is of another architecture")
            .help("name the CPU, for example --target-cpu x86-64-v3 or generic+dotprod")
    }
}

/// Splits `base+on-off`; CPU names hold dashes themselves, so a dash splits only in front of a feature name.
fn split_cpu(cpu: &str, arch: Arch) -> (&str, Vec<(bool, &str)>) {
    let is_feature = |s: &str| {
        let end = s.find(['+', '-']).unwrap_or(s.len());
        FEATURES.iter().any(|f| f.arch == arch && f.name == &s[..end])
    };
    let cuts: Vec<usize> = cpu
        .char_indices()
        .filter(|(i, c)| *c == '+' || (*c == '-' && is_feature(&cpu[i + 1..])))
        .map(|(i, _)| i)
        .collect();
    let base = &cpu[..cuts.first().copied().unwrap_or(cpu.len())];
    let changes = cuts
        .iter()
        .enumerate()
        .map(|(n, at)| {
            let end = cuts.get(n + 1).copied().unwrap_or(cpu.len());
            (&cpu[*at..*at + 1] == "+", &cpu[at + 1..end])
        })
        .collect();
    (base, changes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const X64: Option<&str> = Some("x86_64-unknown-linux-gnu");
    const ARM: Option<&str> = Some("aarch64-unknown-linux-gnu");

    #[test]
    fn names_and_changes() {
        let t = Target::parse(X64, "x86-64-v3+avxvnni").expect("valid");
        assert!(t.has("avxvnni") && t.has("sse4.2") && !t.has("avx512f"));
        let t = Target::parse(X64, "avx512vnni-avx512dq").expect("valid");
        assert!(t.has("avx512vnni") && !t.has("avx512dq"));
        let t = Target::parse(X64, "x86-64-v4-avx2").expect("valid");
        assert!(!t.has("avx512f") && t.has("avx"), "what implies a removed feature goes with it");
        assert!(!Target::parse(X64, "avx512vbmi-avx512bw").expect("valid").has("avx512vbmi"));
        assert_eq!(Target::parse(ARM, "generic+i8mm").expect("valid").isa(), "aarch64+dotprod+i8mm");
        assert_eq!(Target::parse(ARM, "+dotprod").expect("valid").isa(), "aarch64+dotprod");
    }

    #[test]
    fn levels_are_ordered_best_first() {
        let isas = |cpus: &str| -> Vec<String> {
            let levels = Target::parse_levels(X64, cpus).expect("valid");
            levels.iter().map(Target::isa).collect()
        };
        let one = |cpu: &str| Target::parse(X64, cpu).expect("valid").isa();
        let wanted =
            ["avx512vbmi", "avx512vnni", "x86-64-v4", "avxvnni", "x86-64-v3", "x86-64-v2", "x86-64"].map(one);
        assert_eq!(isas("x86-64-v3,x86-64,avx512vnni,x86-64-v2, avxvnni,avx512vbmi,x86-64-v4"), wanted);
        let wanted = ["avx512vnni", "x86-64-v4+avx512vbmi", "x86-64-v4"].map(one);
        assert_eq!(
            isas("x86-64-v4,x86-64-v4+avx512vbmi,avx512vnni"),
            wanted,
            "dot products count more than tables"
        );
        assert_eq!(isas("x86-64-v3"), [one("x86-64-v3")]);
        let arm = Target::parse_levels(ARM, "generic,generic+i8mm,generic+dotprod").expect("valid");
        let arm: Vec<_> = arm.iter().map(Target::isa).collect();
        assert_eq!(arm, ["aarch64+dotprod+i8mm", "aarch64+dotprod", "aarch64"]);
        let many = ["x86-64"; 17].join(",");
        for cpus in ["x86-64-v3,x86-64-v3", "x86-64-v3,x86-64-v4-avx512f+fma", "x86-64,pentium", &many] {
            let error = Target::parse_levels(X64, cpus).expect_err(cpus);
            assert_eq!(error.code, Code::TARGET, "{cpus}");
        }
    }

    #[test]
    fn refusals() {
        for (triple, cpu) in [
            (Some("wasm32-unknown-unknown"), "generic"),
            (Some("x86_64-pc-windows-msvc"), "x86-64"),
            (Some("nonsense"), "x86-64"),
            (X64, "pentium"),
            (X64, "x86-64+neon"),
            (ARM, "x86-64-v3"),
        ] {
            assert_eq!(
                Target::parse(triple, cpu).expect_err("unknown").code,
                Code::TARGET,
                "{triple:?} {cpu}"
            );
        }
    }

    #[test]
    fn every_named_cpu_has_a_back_end() {
        for (arch, cpu, _) in CPUS {
            let t = Target::parse(if *arch == Arch::X64 { X64 } else { ARM }, cpu).expect("named");
            for (speed, baseline) in [(false, false), (true, false), (true, true)] {
                t.isa_for(speed, baseline).expect("flags are valid");
            }
        }
    }
}
