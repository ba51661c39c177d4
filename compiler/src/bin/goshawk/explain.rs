//! `goshawk explain`: what an error code means.
use crate::{Outcome, output};
use goshawk_compiler::{
    Code, Error, Result,
    explain::{self, EXPLANATIONS, Explanation},
};
use serde::Serialize;

/// Explain an error code, or list all of them
#[derive(clap::Args)]
pub struct Args {
    /// Code as printed, for example E0301
    code: Option<String>,
}

#[derive(Serialize)]
struct Entry {
    code: String,
    title: &'static str,
    text: &'static str,
}

impl From<&Explanation> for Entry {
    fn from(e: &Explanation) -> Self {
        Self { code: e.code.to_string(), title: e.title, text: e.text }
    }
}

pub fn run(args: &Args, json: bool) -> Result<Outcome> {
    match &args.code {
        None => {
            let all: Vec<Entry> = EXPLANATIONS.iter().map(Entry::from).collect();
            output::print(json, &all, |all| {
                all.iter().map(|e| format!("{}  {}\n", e.code, e.title)).collect::<String>()
            })?;
        }
        Some(code) => {
            let Some(found) = explain::find(code) else {
                return Err(Error::new(Code::MODEL, format!("there is no error code {code}"))
                    .help("`goshawk explain` lists all codes"));
            };
            output::print(json, &Entry::from(found), |e| format!("{}: {}\n\n{}", e.code, e.title, e.text))?;
        }
    }
    Ok(Outcome::Done)
}
