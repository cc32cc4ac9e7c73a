//! The main job on this machine, narrated: every line that is printed with a tick was checked just before.
//!
//! It starts the real broker and node plugin, runs the real CLI, publishes volumes over the CSI socket as kubelet would, and
//! runs the pod's containers under runc. It ends with the first difference, and leaves nothing behind: on success, on
//! failure and on Ctrl-C. With `--keep DIR` it leaves all of it running.

mod keep;
mod narrator;
mod story;

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use attache_tests::Bed;
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

use narrator::{Interrupted, Narrator};

/// Runs the main job and checks every line of it.
#[derive(Parser)]
struct Args {
    /// Leave everything running in this folder, which must be new or empty, with `env` and `stop.sh` beside it.
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
}

#[expect(clippy::print_stderr, reason = "the last word of a program")]
fn main() -> ExitCode {
    let args = Args::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("attache-try: {error}");
            return ExitCode::FAILURE;
        }
    };
    let narrator = Narrator::new();
    let stop = narrator.interrupter();
    runtime.spawn(async move {
        let Ok(mut told) = signal(SignalKind::terminate()) else {
            return;
        };
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = told.recv() => {}
        }
        stop.interrupt();
    });
    match run(&args, &narrator, &runtime) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<Interrupted>() => {
            eprintln!("\ninterrupted; everything was taken down");
            ExitCode::from(130)
        }
        Err(error) => {
            eprintln!("\nDIFFERENCE: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args, narrator: &Narrator, runtime: &tokio::runtime::Runtime) -> Result<()> {
    let mut bed = match &args.keep {
        Some(dir) => Bed::at(dir)?,
        None => Bed::new()?,
    };
    let told = story::tell(&mut bed, narrator, runtime, args.keep.is_some());
    match (told, &args.keep) {
        (Ok(left), Some(dir)) => keep::leave(bed, left, dir, narrator),
        (Ok(_), None) => {
            drop(bed);
            narrator.end();
            Ok(())
        }
        (Err(error), Some(_)) => {
            keep::empty(&mut bed);
            Err(error)
        }
        (Err(error), None) => Err(error),
    }
}
