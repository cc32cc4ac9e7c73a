//! A cluster for playing, brought up and taken down; and the reaper behind every one that the tests bring up.

use std::{
    io::{Read, stdin},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::Result;
use attache_tests::kubernetes::estate;
use clap::Parser;

/// A real Kubernetes of two nodes on this machine.
#[derive(Parser)]
enum Command {
    /// Waits until standard input is closed, then takes down what belongs to a folder: the harness starts this.
    #[command(hide = true)]
    Reap {
        /// The folder.
        dir: PathBuf,
    },
}

#[expect(clippy::print_stderr, reason = "the last word of a program")]
fn main() -> ExitCode {
    match run(Command::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("attache-cluster: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Reap { dir } => {
            let mut last_words = Vec::new();
            stdin().read_to_end(&mut last_words)?;
            if last_words == estate::KEEP {
                return Ok(());
            }
            estate::clear(&dir)
        }
    }
}
