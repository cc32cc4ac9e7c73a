//! Entry point: the process's own arguments, environment and streams go to [`attache_cli::run`], and its answer is the
//! exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    attache_cli::run(std::env::args_os(), attache_cli::Environment::of_process()).into()
}
