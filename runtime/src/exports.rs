//! Reads the exported symbol names of an ELF shared object, to find the network's C prefix without being told.
//!
//! Only the section header table and `.dynsym` are read, every access checked: the file may be anything.

const SHT_DYNSYM: u32 = 11;
const SYMBOL_SIZE: usize = 24;

/// C prefixes of the networks in the library: `p` for every exported `p_run`, `p_run_f32`, `p_level`, `p_info`; sorted.
///
/// # Errors
/// Says why the bytes are not a readable 64-bit little-endian ELF shared object.
pub fn prefixes(file: &[u8]) -> Result<Vec<String>, String> {
    let names = exported(file)?;
    let has = |name: String| names.contains(&name);
    let mut prefixes: Vec<String> = names
        .iter()
        .filter_map(|n| n.strip_suffix("_run_f32"))
        .filter(|p| has(format!("{p}_run")) && has(format!("{p}_level")) && has(format!("{p}_info")))
        .map(str::to_owned)
        .collect();
    prefixes.sort_unstable();
    prefixes.dedup();
    Ok(prefixes)
}

fn exported(file: &[u8]) -> Result<Vec<String>, String> {
    if file.get(..6) != Some(&[0x7f, b'E', b'L', b'F', 2, 1]) {
        return Err("not a 64-bit little-endian ELF file".into());
    }
    let header = |index: usize| -> Option<&[u8]> {
        let table = usize::try_from(u64_at(file, 0x28)?).ok()?;
        let size = usize::from(u16_at(file, 0x3a)?);
        let start = table.checked_add(index.checked_mul(size)?)?;
        file.get(start..start.checked_add(size)?)
    };
    let content = |header: &[u8]| -> Option<&[u8]> {
        let start = usize::try_from(u64_at(header, 0x18)?).ok()?;
        let size = usize::try_from(u64_at(header, 0x20)?).ok()?;
        file.get(start..start.checked_add(size)?)
    };
    let truncated = || "the file is truncated".to_owned();
    let sections = usize::from(u16_at(file, 0x3c).ok_or_else(truncated)?);
    for index in 0..sections {
        let section = header(index).ok_or_else(truncated)?;
        if u32_at(section, 4) != Some(SHT_DYNSYM) {
            continue;
        }
        let strings = u32_at(section, 0x28)
            .and_then(|link| header(link as usize))
            .and_then(content)
            .ok_or_else(truncated)?;
        let symbols = content(section).ok_or_else(truncated)?;
        return Ok(symbols.chunks_exact(SYMBOL_SIZE).filter_map(|s| name(s, strings)).collect());
    }
    Err("it exports nothing".into())
}

/// Name of a defined symbol.
fn name(symbol: &[u8], strings: &[u8]) -> Option<String> {
    if u16_at(symbol, 6)? == 0 {
        return None;
    }
    let tail = strings.get(u32_at(symbol, 0)? as usize..)?;
    let end = tail.iter().position(|b| *b == 0)?;
    String::from_utf8(tail[..end].to_vec()).ok().filter(|n| !n.is_empty())
}

fn bytes_at<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes_at(bytes, at).map(u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes_at(bytes, at).map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes_at(bytes, at).map(u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_is_no_library() {
        assert!(prefixes(b"").is_err());
        assert!(prefixes(b"\x7fELF\x01\x01").is_err());
        assert!(prefixes(&[&b"\x7fELF\x02\x01"[..], &[0xff; 200]].concat()).is_err());
    }
}
