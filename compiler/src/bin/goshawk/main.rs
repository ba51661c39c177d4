//! The `goshawk` command: one file for each subcommand, all work in the library.
//!
//! Exit status: 0 done, 1 a check failed, 2 usage or input error, 130 interrupted. Errors go to stderr with code, place,
//! reason and remedy; results go to stdout, with `--json` as one JSON document.
mod allocate;
mod args;
mod bench;
mod calibrate;
mod chain;
mod compile;
mod diff;
mod eval;
mod explain;
mod inspect;
mod ops;
mod output;
mod peak;
mod profile;
mod profile_costs;
mod run;
mod sensitivity;
mod terminal;

use clap::{Parser, Subcommand};
use goshawk_compiler::{Code, Result};
use std::process::ExitCode;

/// Ahead-of-time compiler for quantized convolutional networks: ONNX in, integer-only native code out.
#[derive(Parser)]
#[command(name = "goshawk", version, max_term_width = 110)]
struct Cli {
    /// Print the result as one JSON document
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Inspect(inspect::Args),
    Compile(compile::Args),
    Calibrate(calibrate::Args),
    Run(run::Args),
    Eval(eval::Args),
    Diff(diff::Args),
    Allocate(allocate::Args),
    ProfileCosts(profile_costs::Args),
    Bench(bench::Args),
    Profile(profile::Args),
    Peak(peak::Args),
    Sensitivity(Box<sensitivity::Args>),
    Ops(ops::Args),
    Explain(explain::Args),
}

/// How a command ended that did not fail.
pub enum Outcome {
    /// All is well.
    Done,
    /// The answer is no: a threshold missed, nodes that are not supported.
    CheckFailed,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    terminal::catch_interrupts();
    let json = cli.json;
    let outcome: Result<Outcome> = match cli.command {
        Command::Inspect(args) => inspect::run(&args, json),
        Command::Compile(args) => compile::run(&args, json),
        Command::Calibrate(args) => calibrate::run(&args, json),
        Command::Run(args) => run::run(&args, json),
        Command::Eval(args) => eval::run(&args, json),
        Command::Diff(args) => diff::run(&args, json),
        Command::Allocate(args) => allocate::run(&args, json),
        Command::ProfileCosts(args) => profile_costs::run(&args, json),
        Command::Bench(args) => bench::run(&args, json),
        Command::Profile(args) => profile::run(&args, json),
        Command::Peak(args) => peak::run(&args, json),
        Command::Sensitivity(args) => sensitivity::run(&args, json),
        Command::Ops(args) => ops::run(&args, json),
        Command::Explain(args) => explain::run(&args, json),
    };
    match outcome {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::CheckFailed) => ExitCode::from(1),
        Err(error) => {
            terminal::clear();
            eprintln!("{error}");
            ExitCode::from(if error.code == Code::INTERRUPTED { 130 } else { 2 })
        }
    }
}
