//! `--linker`: makes the shared library with a C compiler of the system, as the alternative to [`super::shared`].
//!
//! For those whose tool chain must see the objects, for link-time options of their own, and as a second opinion in
//! tests.
use crate::{Code, Error, Result};
use std::{
    ffi::OsStr,
    io::ErrorKind,
    process::{Command, Stdio},
};

/// Links `object` into a shared library named `soname` with the compiler driver `program`, such as `cc` or
/// `aarch64-linux-gnu-gcc`.
///
/// # Errors
/// The program is missing or fails; the error quotes what it says.
pub fn link(program: &OsStr, object: &[u8], soname: &str) -> Result<Vec<u8>> {
    let shown = program.to_string_lossy();
    let io = |doing: &str, e: &std::io::Error| {
        Error::new(Code::FILE, format!("cannot {doing} a temporary file")).because(e.to_string())
    };
    let dir = tempfile::Builder::new().prefix("goshawk-").tempdir().map_err(|e| io("create", &e))?;
    std::fs::write(dir.path().join("model.o"), object).map_err(|e| io("write", &e))?;
    let output = Command::new(program)
        .current_dir(dir.path())
        .args(["-shared", "-nostdlib", "-o", "library.so", "model.o"])
        .arg(format!("-Wl,-soname,{soname}"))
        .args(["-Wl,-z,defs", "-Wl,-z,text", "-Wl,-z,relro", "-Wl,-z,noexecstack"])
        .args(["-Wl,--build-id=sha1", "-Wl,--hash-style=both", "-Wl,--eh-frame-hdr"])
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .output()
        .map_err(|e| {
            let error =
                Error::new(Code::LINKER, format!("cannot run the linker {shown}")).because(e.to_string());
            if e.kind() == ErrorKind::NotFound {
                error
                    .help("install it, name another with --linker, or leave --linker out: goshawk needs none")
            } else {
                error.help("leave --linker out: goshawk needs no linker")
            }
        })?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(Error::new(Code::LINKER, format!("the linker {shown} failed ({})", output.status))
            .because(said.trim())
            .help(
                "leave --linker out: goshawk needs no linker; for another target name its cross compiler",
            ));
    }
    std::fs::read(dir.path().join("library.so")).map_err(|e| {
        Error::new(Code::LINKER, format!("the linker {shown} wrote no library")).because(e.to_string())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_linker_is_named_with_a_remedy() {
        let error = link(OsStr::new("no-such-linker"), b"", "libm.so").expect_err("it is missing");
        assert_eq!(error.code, Code::LINKER);
        assert!(error.what.contains("no-such-linker"));
        assert!(error.remedy.is_some_and(|r| r.contains("--linker")));
    }

    #[test]
    fn a_failing_linker_is_quoted() {
        let error = link(OsStr::new("false"), b"", "libm.so").expect_err("it fails");
        assert_eq!(error.code, Code::LINKER);
    }
}
