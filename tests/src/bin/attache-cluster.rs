//! A cluster for playing, brought up and taken down; and the reaper behind every one that the tests bring up.

use std::{
    io::{Read, stdin},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Result;
use attache_tests::kubernetes::{Cluster, NEWEST, Release, estate, slot::Slot};
use clap::Parser;

/// A real Kubernetes of two nodes on this machine.
#[derive(Parser)]
enum Command {
    /// Brings a cluster up in a folder and leaves it running.
    Up {
        /// The folder, which is not there yet or empty.
        dir: PathBuf,
        /// The release of Kubernetes, as tests/kubernetes/build.sh has built it.
        #[arg(long, value_name = "VERSION", default_value = NEWEST)]
        version: String,
    },
    /// Takes a cluster down, and removes its folder.
    Down {
        /// The folder; that of the one cluster that was left running, when left out.
        dir: Option<PathBuf>,
    },
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
        Command::Up { dir, version } => up(&dir, &version),
        Command::Down { dir } => match dir {
            Some(dir) => Slot::of(&dir)?.take_down(),
            None => Slot::of_the_kept_one()?.take_down(),
        },
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

#[expect(clippy::print_stdout, reason = "what it is asked for")]
fn up(dir: &Path, version: &str) -> Result<()> {
    let cluster = Cluster::start_in(dir, &Release::new(version))?;
    let (dir, kubeconfig) = (cluster.dir().to_owned(), cluster.control_plane.kubeconfig());
    cluster.keep()?;
    println!("export KUBECONFIG={}", kubeconfig.display());
    println!(
        "# taken down by: tests/kubernetes/down.sh {}",
        dir.display()
    );
    Ok(())
}
