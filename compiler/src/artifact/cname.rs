//! Names in C: the prefix of a network's functions, and the fields of its structs.
use crate::{Code, Error, Result};
use std::{collections::BTreeSet, fmt};

/// Longest prefix; compilers and linkers need no limit, readers do.
const MAX_PREFIX: usize = 63;

/// C prefix of a network: `resnet20` gives `resnet20_run`, `RESNET20_ARENA_BYTES` and so on.
///
/// A letter, then letters, digits and single underscores; not `goshawk…`, which the common part of the headers uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CName(String);

impl CName {
    /// Checks a prefix that the user gave.
    ///
    /// # Errors
    /// It is not usable in C and C++.
    pub fn new(prefix: &str) -> Result<Self> {
        let reason = if prefix.is_empty() {
            "it is empty"
        } else if prefix.len() > MAX_PREFIX {
            "it is longer than 63 characters"
        } else if !prefix.starts_with(|c: char| c.is_ascii_alphabetic()) {
            "it does not start with a letter"
        } else if !prefix.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
            "it has characters other than ASCII letters, digits and underscores"
        } else if prefix.contains("__") || prefix.ends_with('_') {
            "two underscores in a row are reserved in C++"
        } else if prefix.to_ascii_lowercase().starts_with("goshawk") {
            "names that start with goshawk are taken by the common part of the headers"
        } else {
            return Ok(Self(prefix.to_owned()));
        };
        Err(Error::new(Code::TARGET, format!("{prefix:?} cannot be the C prefix of the model"))
            .because(reason)
            .help(format!("use --name {}", Self::from_model_name(prefix))))
    }

    /// The prefix nearest to the name of a model: lower case, other characters become underscores.
    pub fn from_model_name(name: &str) -> Self {
        let mut prefix = identifier(&name.to_ascii_lowercase());
        prefix.truncate(MAX_PREFIX - "model_".len());
        let prefix = prefix.trim_matches('_');
        Self(if prefix.is_empty() {
            "model".to_owned()
        } else if prefix.starts_with(|c: char| c.is_ascii_digit()) || prefix.starts_with("goshawk") {
            format!("model_{prefix}")
        } else {
            prefix.to_owned()
        })
    }

    /// The prefix.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The prefix of macros.
    pub fn upper(&self) -> String {
        self.0.to_ascii_uppercase()
    }
}

impl fmt::Display for CName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Field names for tensors: valid in C and C++, distinct, as near to the tensor names as that allows.
pub fn fields<'a>(names: impl Iterator<Item = &'a str>, prefix: &CName) -> Vec<String> {
    let mut taken = BTreeSet::new();
    let mut fields = Vec::new();
    for name in names {
        let mut field = identifier(name);
        if !field.starts_with(|c: char| c.is_ascii_alphabetic()) {
            field = format!("t_{}", field.trim_start_matches('_'));
        }
        if RESERVED.binary_search(&field.as_str()).is_ok()
            || field.starts_with(&format!("{}_", prefix.upper()))
        {
            field.push('_');
        }
        let base = field.clone();
        let mut number = 2;
        while !taken.insert(field.clone()) {
            field = format!("{base}_{number}");
            number += 1;
        }
        fields.push(field);
    }
    fields
}

/// Every run of characters that C does not allow becomes one underscore.
fn identifier(name: &str) -> String {
    let mut result = String::new();
    for c in name.chars() {
        let c = if c.is_ascii_alphanumeric() { c } else { '_' };
        if c != '_' || !result.ends_with('_') {
            result.push(c);
        }
    }
    result.trim_end_matches('_').to_owned()
}

/// Keywords of C up to C23 and C++ up to C++20, and macros that compilers or common headers define. Sorted.
const RESERVED: &[&str] = &[
    "EOF",
    "I",
    "NULL",
    "alignas",
    "alignof",
    "and",
    "and_eq",
    "asm",
    "assert",
    "atomic_cancel",
    "atomic_commit",
    "atomic_noexcept",
    "auto",
    "bitand",
    "bitor",
    "bool",
    "break",
    "case",
    "catch",
    "char",
    "char16_t",
    "char32_t",
    "char8_t",
    "class",
    "co_await",
    "co_return",
    "co_yield",
    "compl",
    "complex",
    "concept",
    "const",
    "const_cast",
    "consteval",
    "constexpr",
    "constinit",
    "continue",
    "decltype",
    "default",
    "delete",
    "do",
    "double",
    "dynamic_cast",
    "else",
    "enum",
    "errno",
    "explicit",
    "export",
    "extern",
    "false",
    "float",
    "for",
    "friend",
    "goto",
    "i386",
    "if",
    "inline",
    "int",
    "linux",
    "long",
    "mutable",
    "namespace",
    "new",
    "noexcept",
    "noreturn",
    "not",
    "not_eq",
    "nullptr",
    "offsetof",
    "operator",
    "or",
    "or_eq",
    "private",
    "protected",
    "public",
    "reflexpr",
    "register",
    "reinterpret_cast",
    "requires",
    "restrict",
    "return",
    "short",
    "signed",
    "sizeof",
    "static",
    "static_assert",
    "static_cast",
    "stderr",
    "stdin",
    "stdout",
    "struct",
    "switch",
    "synchronized",
    "template",
    "this",
    "thread_local",
    "throw",
    "true",
    "try",
    "typedef",
    "typeid",
    "typename",
    "typeof",
    "typeof_unqual",
    "union",
    "unix",
    "unsigned",
    "using",
    "virtual",
    "void",
    "volatile",
    "wchar_t",
    "while",
    "xor",
    "xor_eq",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn model_names_become_prefixes() {
        for (name, prefix) in [
            ("resnet20", "resnet20"),
            ("ResNet-20 (CIFAR)", "resnet_20_cifar"),
            ("main_graph", "main_graph"),
            ("", "model"),
            ("__", "model"),
            ("7x", "model_7x"),
            ("goshawk_model", "model_goshawk_model"),
            ("日本", "model"),
        ] {
            assert_eq!(CName::from_model_name(name).as_str(), prefix);
        }
        let long = CName::from_model_name(&"ab-".repeat(100));
        assert_eq!(CName::new(long.as_str()), Ok(long.clone()));
    }

    #[test]
    fn unusable_prefixes_are_refused_with_a_usable_one() {
        for bad in ["", "7x", "a-b", "_m", "a__b", "a_", "goshawk", "Goshawk_m", "ü", &"x".repeat(64)] {
            let error = CName::new(bad).expect_err("unusable");
            let remedy = error.remedy.expect("says what to do");
            let proposal = remedy.strip_prefix("use --name ").expect("proposes a name");
            CName::new(proposal).expect("the proposal is usable");
        }
    }

    #[test]
    fn fields_are_distinct_identifiers() {
        let prefix = CName::new("m").expect("usable");
        let names = ["input.1", "input_1", "float", "495", "", "a/b:0", "M_ARENA_BYTES", "input_1_2", "X"];
        let expected =
            ["input_1", "input_1_2", "float_", "t_495", "t_", "a_b_0", "M_ARENA_BYTES_", "input_1_2_2", "X"];
        assert_eq!(fields(names.into_iter(), &prefix), expected);
    }

    #[test]
    fn reserved_words_are_sorted() {
        assert!(RESERVED.is_sorted());
    }
}
