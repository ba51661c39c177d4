//! Labels of a data set: `.json`, `.txt`, `.csv`, `.npy`, idx.
//!
//! A file lists the class of every row in order, or names image files: JSON `[3, 8]` or `{"a.png": 3}`; text with one
//! number, or `a.png 3`, in a line; CSV with a heading that has a column `label`, `class_index` or `class` and, for
//! image files, `file`, `filename` or `image`.
use super::{idx, npy};
use crate::{Code, Error, Result};
use std::path::{Path, PathBuf};

/// What a labels file holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Labels {
    /// Class of each row.
    InOrder(Vec<u32>),
    /// Class of each named file, in the order of the list.
    ByFile(Vec<(String, u32)>),
}

/// The labels file that lies beside a data set, if there is one: `labels.*` in a folder, `NAME_labels.*` beside a file.
pub fn beside(data: &Path) -> Option<PathBuf> {
    let endings = ["csv", "json", "txt", "npy"];
    let candidate = |ending: &str| match data.is_dir() {
        true => Some(data.join(format!("labels.{ending}"))),
        false => Some(data.with_file_name(format!("{}_labels.{ending}", data.file_stem()?.to_str()?))),
    };
    endings.into_iter().filter_map(candidate).find(|p| p.is_file())
}

/// Reads a labels file.
///
/// # Errors
/// [`Code::FILE`] or [`Code::DATA`], with the line.
pub fn read(path: &Path) -> Result<Labels> {
    let bytes = std::fs::read(path).map_err(|e| Error::file(path, "read", &e))?;
    let bad = |why: String| {
        Error::new(Code::DATA, format!("cannot read the labels {}", path.display()))
            .because(why)
            .help("labels are classes counted from 0: a JSON list, one number a line, or a CSV with columns file and label")
    };
    let text = || std::str::from_utf8(&bytes).map_err(|_| bad("it is not text".into()));
    match path.extension().and_then(|e| e.to_str()).unwrap_or_default() {
        "json" => parse_json(text()?).map_err(bad),
        "txt" => parse_txt(text()?).map_err(bad),
        "csv" => parse_csv(text()?).map_err(bad),
        "npy" => {
            let header = npy::Header::parse(&bytes).map_err(bad)?;
            from_array(&header, bytes.get(header.offset..).unwrap_or_default()).map_err(bad)
        }
        _ => {
            let (header, data) = idx::parse(&bytes).map_err(bad)?;
            from_array(&header, &data).map_err(bad)
        }
    }
}

/// Labels from an integer array of one dimension, or of one column.
///
/// # Errors
/// A sentence saying what is wrong.
pub fn from_array(header: &npy::Header, bytes: &[u8]) -> std::result::Result<Labels, String> {
    if !header.element.is_integer() || header.dims.iter().skip(1).any(|d| *d != 1) || header.dims.is_empty() {
        return Err(format!("labels must be one integer a row, the array is {:?}", header.dims));
    }
    let want = header.data_bytes()?;
    let bytes = bytes.get(..want).ok_or("it ends early")?;
    npy::decode_i64(header.element, bytes)
        .into_iter()
        .map(class)
        .collect::<std::result::Result<_, _>>()
        .map(Labels::InOrder)
}

fn class(value: i64) -> std::result::Result<u32, String> {
    u32::try_from(value).map_err(|_| format!("{value} is not a class"))
}

fn parse_json(text: &str) -> std::result::Result<Labels, String> {
    #[derive(serde::Deserialize)]
    #[serde(untagged)]
    enum Json {
        List(Vec<u32>),
        Map(std::collections::BTreeMap<String, u32>),
    }
    match serde_json::from_str(text).map_err(|e| e.to_string())? {
        Json::List(list) => Ok(Labels::InOrder(list)),
        Json::Map(map) => Ok(Labels::ByFile(map.into_iter().collect())),
    }
}

fn parse_txt(text: &str) -> std::result::Result<Labels, String> {
    let (mut order, mut files) = (Vec::new(), Vec::new());
    for (i, line) in text.lines().enumerate().filter(|(_, l)| !l.trim().is_empty()) {
        let (file, number) = match line.trim().rsplit_once(char::is_whitespace) {
            Some((file, number)) => (Some(file.trim_end()), number),
            None => (None, line.trim()),
        };
        let number = number.parse().map_err(|_| format!("line {}: {number:?} is not a class", i + 1))?;
        match file {
            Some(file) => files.push((file.to_owned(), number)),
            None => order.push(number),
        }
    }
    match (order.is_empty(), files.is_empty()) {
        (_, true) => Ok(Labels::InOrder(order)),
        (true, false) => Ok(Labels::ByFile(files)),
        (false, false) => Err("some lines name a file and some do not".into()),
    }
}

fn parse_csv(text: &str) -> std::result::Result<Labels, String> {
    let mut lines = text.lines().enumerate().filter(|(_, l)| !l.trim().is_empty());
    let heading: Vec<&str> = match lines.next() {
        Some((_, line)) => line.split(',').map(str::trim).collect(),
        None => return Ok(Labels::InOrder(Vec::new())),
    };
    let column = |names: &[&str]| heading.iter().position(|h| names.contains(h));
    let class_at = column(&["label", "class_index", "class"])
        .ok_or_else(|| format!("the heading {heading:?} has no column label, class_index or class"))?;
    let file_at = column(&["file", "filename", "image"]);
    let (mut order, mut files) = (Vec::new(), Vec::new());
    for (i, line) in lines {
        let cells = cells(line);
        let cell = |at: usize| {
            cells.get(at).map(|c| c.trim()).ok_or_else(|| format!("line {}: too few cells", i + 1))
        };
        let number = cell(class_at)?;
        let number = number.parse().map_err(|_| format!("line {}: {number:?} is not a class", i + 1))?;
        match file_at {
            Some(at) => files.push((cell(at)?.to_owned(), number)),
            None => order.push(number),
        }
    }
    Ok(if file_at.is_some() { Labels::ByFile(files) } else { Labels::InOrder(order) })
}

/// Cells of a CSV line, with double quotes around those that hold commas.
fn cells(line: &str) -> Vec<String> {
    let (mut cells, mut quoted) = (vec![String::new()], false);
    for c in line.chars() {
        match c {
            '"' => quoted = !quoted,
            ',' if !quoted => cells.push(String::new()),
            c => cells.iter_mut().last().into_iter().for_each(|cell| cell.push(c)),
        }
    }
    cells
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_forms() {
        let files =
            |l: &[(&str, u32)]| Ok(Labels::ByFile(l.iter().map(|(f, c)| ((*f).into(), *c)).collect()));
        assert_eq!(parse_json("[3, 8]"), Ok(Labels::InOrder(vec![3, 8])));
        assert_eq!(parse_json("{\"b\": 1, \"a\": 2}"), files(&[("a", 2), ("b", 1)]));
        assert_eq!(parse_txt("3\n\n8\n"), Ok(Labels::InOrder(vec![3, 8])));
        assert_eq!(parse_txt("a b.png 3\nc.png 4"), files(&[("a b.png", 3), ("c.png", 4)]));
        let csv = "class_index,file,wnid,name\n0,a.jpg,n01,tench\n2,b.jpg,n02,\"a, b\"\n";
        assert_eq!(parse_csv(csv), files(&[("a.jpg", 0), ("b.jpg", 2)]));
        assert_eq!(parse_csv("label\n4\n"), Ok(Labels::InOrder(vec![4])));
    }

    #[test]
    fn mistakes_are_located() {
        assert!(parse_txt("1\nx").is_err_and(|e| e.contains("line 2")));
        assert!(parse_txt("1\na 2").is_err());
        assert!(parse_csv("a,b\n1,2").is_err_and(|e| e.contains("column")));
        assert!(parse_csv("file,label\na.png").is_err_and(|e| e.contains("line 2")));
        assert!(parse_csv("label\n-1").is_err_and(|e| e.contains("line 2")));
        assert!(parse_json("[1, -2]").is_err());
    }
}
