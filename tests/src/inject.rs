//! A fault at one system call of a process that runs: strace makes the n-th call of a kind upon a file of its fail, or the
//! process end at it.
//!
//! The program knows nothing of it: what is shipped is what is tested. A call is counted for each thread by itself, which
//! is the same where a file is written by one thread.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use rustix::process::Signal;

use crate::process::{Process, until};

/// So long strace may take to let go of a process.
const LETS_GO: Duration = Duration::from_secs(2);

/// What happens at the call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// `kill -9`, before the call does anything.
    Kill,
    /// It answers this error and does nothing.
    Fails(&'static str),
}

/// A fault: at which call of a process, and what then.
#[derive(Debug, Clone)]
pub struct Fault {
    /// The system call.
    pub call: &'static str,
    /// The files of which one is meant.
    pub files: Vec<PathBuf>,
    /// Which of those calls, from 1.
    pub nth: u32,
    /// What happens at it.
    pub effect: Effect,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let effect = match self.effect {
            Effect::Kill => "kill -9",
            Effect::Fails(error) => error,
        };
        write!(f, "{effect} at {} {}", self.call, self.nth)?;
        match self.files.first().and_then(|file| file.file_name()) {
            Some(file) => write!(f, " of {}", file.display()),
            None => Ok(()),
        }
    }
}

impl Fault {
    /// The words for strace, which say what it traces and what it does; its own log goes to `told`.
    fn words(&self, told: &Path) -> Vec<String> {
        let effect = match self.effect {
            Effect::Kill => "signal=KILL".to_owned(),
            Effect::Fails(error) => format!("error={error}"),
        };
        let mut words = vec![
            "-f".to_owned(),
            "-o".to_owned(),
            told.display().to_string(),
            format!("--trace={}", self.call),
            format!("--inject={}:{effect}:when={}", self.call, self.nth),
        ];
        for file in &self.files {
            words.extend(["-P".to_owned(), file.display().to_string()]);
        }
        words
    }
}

/// A fault that waits in a process.
#[derive(Debug)]
pub struct Injection {
    strace: Process,
    told: PathBuf,
}

impl Injection {
    /// Puts a fault into a process; it is there when this returns. `dir` takes what strace says.
    ///
    /// # Errors
    /// When strace cannot be started, or not be attached.
    pub fn into_process(pid: u32, fault: &Fault, dir: &Path) -> Result<Self> {
        let (log, told) = (dir.join("strace.log"), dir.join("strace.calls"));
        for old in [&log, &told] {
            let _absent = fs::remove_file(old);
        }
        let mut command = Command::new("strace");
        command
            .args(fault.words(&told))
            .args(["-p", &pid.to_string()]);
        let mut strace = Process::spawn(&mut command, "strace", &log)?;
        strace.wait_until("attached", || {
            let said = fs::read_to_string(&log).unwrap_or_default();
            said.contains("attached").then_some(())
        })?;
        Ok(Self { strace, told })
    }

    /// Takes it out again, whether the process lives or not. Answers whether it has come about: from then on it cannot.
    ///
    /// # Errors
    /// When strace does not end; when what it says cannot be read.
    pub fn take_out(mut self) -> Result<bool> {
        for signal in [Signal::INT, Signal::KILL] {
            if self.strace.runs() {
                self.strace.signal(signal)?;
            }
            // It waits for threads that are ending; when it is killed, the system lets go for it.
            let gone = until(LETS_GO, "strace has let go", || {
                (!self.strace.runs()).then_some(())
            });
            if gone.is_ok() {
                let told = fs::read_to_string(&self.told).context("strace has said nothing")?;
                return Ok(came_about(&told));
            }
        }
        bail!("strace does not end")
    }
}

/// Whether a fault has come about, by what strace said.
#[must_use]
pub fn came_about(told: &str) -> bool {
    told.contains("(INJECTED)") || told.contains("killed by SIGKILL")
}

/// A command that runs with a fault in it; what strace says goes to `told`.
#[must_use]
pub fn with_fault(command: &Command, fault: &Fault, told: &Path) -> Command {
    let mut strace = Command::new("strace");
    strace
        .args(fault.words(told))
        .arg(command.get_program())
        .args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => strace.env(name, value),
            None => strace.env_remove(name),
        };
    }
    strace
}
