//! Results on stdout: a table for people, or JSON.
use goshawk_compiler::{Code, Error, Result};
use serde::Serialize;
use std::io::Write;

/// Prints the value as JSON, or what `human` makes of it.
///
/// # Errors
/// [`Code::FILE`] where stdout cannot be written. A closed pipe is no error: the reader has seen enough.
pub fn print<T: Serialize>(json: bool, value: &T, human: impl FnOnce(&T) -> String) -> Result<()> {
    let text = if json {
        serde_json::to_string_pretty(value)
            .map_err(|e| Error::new(Code::INTERNAL, "the result has no JSON form").because(e.to_string()))?
    } else {
        human(value)
    };
    let mut stdout = std::io::stdout().lock();
    match writeln!(stdout, "{}", text.trim_end()).and_then(|()| stdout.flush()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Error::new(Code::FILE, "cannot write to the standard output").because(e.to_string()))
        }
        _ => Ok(()),
    }
}

/// Rows in aligned columns: numbers to the right, text to the left.
pub fn table(heading: &[&str], rows: &[Vec<String>]) -> String {
    let mut all = vec![heading.iter().map(|h| (*h).to_owned()).collect::<Vec<_>>()];
    all.extend(rows.iter().cloned());
    let width = |c: usize| all.iter().filter_map(|r| r.get(c)).map(|t| t.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..heading.len()).map(width).collect();
    let is_number = |cell: &String| {
        cell.is_empty() || cell.starts_with(|c: char| c.is_ascii_digit() || "+-".contains(c)) || cell == "inf"
    };
    let numeric: Vec<bool> =
        (0..heading.len()).map(|c| rows.iter().filter_map(|r| r.get(c)).all(is_number)).collect();
    let mut text = String::new();
    for row in &all {
        let cells = row.iter().zip(widths.iter().zip(&numeric)).map(|(cell, (w, numeric))| match numeric {
            true => format!("{cell:>w$}"),
            false => format!("{cell:<w$}"),
        });
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// A count with a unit: 12.3 k, 4.56 M.
pub fn count(n: u64) -> String {
    match n {
        0..10_000 => n.to_string(),
        10_000..1_000_000 => format!("{:.1} k", n as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.2} M", n as f64 / 1e6),
        _ => format!("{:.2} G", n as f64 / 1e9),
    }
}

/// One line of comma-separated values (RFC 4180).
pub fn csv(fields: &[&str]) -> String {
    let field = |f: &&str| match f.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", f.replace('"', "\"\"")),
        false => (*f).to_owned(),
    };
    fields.iter().map(field).collect::<Vec<_>>().join(",") + "\n"
}
