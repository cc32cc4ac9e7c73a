//! Processes: those of the product, started from the binaries that were built with the tests, and others.

use std::{
    fs::{self, File},
    os::unix::process::{CommandExt, ExitStatusExt},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

/// How long a process may take to become ready or to end.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// Between two looks at something that another process is about to do.
const LOOK: Duration = Duration::from_millis(5);

/// The folder of the product's binaries: beside the test program (`target/PROFILE/deps/..`) or the helper binary.
///
/// # Errors
/// When this program's own path cannot be read.
pub fn bin_dir() -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let dir = own.parent().context("a program lies in a folder")?;
    let dir = if dir.ends_with("deps") {
        dir.parent().context("deps lies in a folder")?
    } else {
        dir
    };
    Ok(dir.to_owned())
}

/// The path of one of the product's binaries.
///
/// # Errors
/// When it is not there: `cargo test` builds the tests alone, `cargo build --bins` the binaries.
pub fn bin(name: &str) -> Result<PathBuf> {
    let path = bin_dir()?.join(name);
    if !path.exists() {
        bail!(
            "{} is not built: run `cargo build --bins` with the same profile first",
            path.display()
        );
    }
    Ok(path)
}

/// The environment that moves the clock of a process by so much, such as `-3580` or `+100d`: Debian's `faketime`.
///
/// # Panics
/// When `faketime` is not installed.
#[must_use]
#[expect(
    clippy::unwrap_used,
    reason = "it is a part of the harness that is missing"
)]
pub fn clock(shift: &str) -> Vec<(&'static str, String)> {
    // The command `faketime` would say where its library is, but it fails when a process of its id was once killed under it.
    let folders = fs::read_dir("/usr/lib").unwrap().flatten();
    let library = folders
        .map(|folder| folder.path().join("faketime/libfaketime.so.1"))
        .find(|library| library.is_file())
        .unwrap();
    vec![
        ("LD_PRELOAD", library.display().to_string()),
        ("FAKETIME", shift.to_owned()),
        // Timers run by the monotonic clock, which stays.
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
    ]
}

/// A running process with its log; it is killed when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    released: bool,
    /// Standard error and output.
    pub log: PathBuf,
    name: String,
}

impl Process {
    /// Starts a binary of the product; its output is appended to `log`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(name: &str, args: &[&str], log: &Path) -> Result<Self> {
        Self::start_with(name, args, &[], log)
    }

    /// As [`Process::start`], with more in its environment.
    ///
    /// # Errors
    /// As [`Process::start`].
    pub fn start_with(
        name: &str,
        args: &[&str],
        environment: &[(&str, &str)],
        log: &Path,
    ) -> Result<Self> {
        let mut command = Command::new(bin(name)?);
        command.args(args).envs(environment.iter().copied());
        Self::spawn(&mut command, name, log)
    }

    /// Starts a command that is called `name` in errors; its output is appended to `log`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(command: &mut Command, name: &str, log: &Path) -> Result<Self> {
        let file = File::options().create(true).append(true).open(log)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            // A group of its own: Ctrl-C reaches the harness alone, which then takes everything down in order.
            .process_group(0)
            .spawn()
            .with_context(|| format!("start {name}"))?;
        Ok(Self {
            child,
            released: false,
            log: log.to_owned(),
            name: name.to_owned(),
        })
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// It has not ended.
    pub fn runs(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Lets go of it: it runs on, and is the caller's by its process id.
    #[must_use]
    pub fn release(mut self) -> u32 {
        self.released = true;
        self.child.id()
    }

    /// Waits until `ready` answers something; fails when the process ends or the patience does.
    ///
    /// # Errors
    /// With the log's end.
    pub fn wait_until<T>(&mut self, what: &str, ready: impl FnMut() -> Option<T>) -> Result<T> {
        self.wait_within(PATIENCE, what, ready)
    }

    /// As [`Process::wait_until`], with a patience of the caller's.
    ///
    /// # Errors
    /// As [`Process::wait_until`].
    pub fn wait_within<T>(
        &mut self,
        patience: Duration,
        what: &str,
        mut ready: impl FnMut() -> Option<T>,
    ) -> Result<T> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(answer) = ready() {
                return Ok(answer);
            }
            if let Some(status) = self.child.try_wait()? {
                bail!(
                    "{} ended ({status}) before {what}:\n{}",
                    self.name,
                    self.log_tail()
                );
            }
            if Instant::now() > deadline {
                bail!(
                    "{} was not {what} after {patience:?}:\n{}",
                    self.name,
                    self.log_tail()
                );
            }
            thread::sleep(LOOK);
        }
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        send(self.child.id(), signal).with_context(|| format!("signal {}", self.name))
    }

    /// Asks it to end and waits.
    ///
    /// # Errors
    /// When it does not end in time (it is killed then) or ends badly.
    pub fn stop(mut self) -> Result<()> {
        self.signal(Signal::TERM)?;
        let status = self.wait_for_end()?;
        if !status.success() && status.signal() != Some(15) {
            bail!("{} ended badly ({status}):\n{}", self.name, self.log_tail());
        }
        Ok(())
    }

    /// Kills it without warning and waits.
    ///
    /// # Errors
    /// When it cannot be killed.
    pub fn kill(mut self) -> Result<()> {
        self.signal(Signal::KILL)?;
        self.wait_for_end()?;
        Ok(())
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When the patience ends first; it is killed then.
    pub fn wait_for_end(&mut self) -> Result<ExitStatus> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() > deadline {
                self.child.kill()?;
                bail!(
                    "{} did not end within {PATIENCE:?}:\n{}",
                    self.name,
                    self.log_tail()
                );
            }
            thread::sleep(LOOK);
        }
    }

    /// The last 4 KiB of its log.
    #[must_use]
    pub fn log_tail(&self) -> String {
        log_tail(&self.log)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.released && self.runs() {
            // A plugin's mounter ends its agent on SIGTERM; only what does not listen is killed.
            let _ = self.signal(Signal::TERM);
            if self.wait_for_end().is_err() {
                let _ = self.child.kill();
            }
        }
    }
}

/// The last 4 KiB of a log.
#[must_use]
pub fn log_tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let mut from = text.len().saturating_sub(4096);
    while !text.is_char_boundary(from) {
        from += 1;
    }
    text.get(from..).unwrap_or_default().to_owned()
}

/// Sends a signal to a process.
///
/// # Errors
/// When the process is gone.
pub fn send(pid: u32, signal: Signal) -> Result<()> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    Ok(kill_process(pid.context("a pid")?, signal)?)
}

/// The process ids of the children of a process.
///
/// # Errors
/// When the process is gone.
pub fn children(pid: u32) -> Result<Vec<u32>> {
    let mut found = Vec::new();
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let text = fs::read_to_string(task?.path().join("children"))?;
        found.extend(
            text.split_whitespace()
                .filter_map(|p| p.parse::<u32>().ok()),
        );
    }
    Ok(found)
}

/// The child of a process that runs the program's command `command`, its first argument.
///
/// # Errors
/// When the process is gone, or has no such child.
pub fn child(pid: u32, command: &str) -> Result<u32> {
    let runs = |pid: &u32| {
        fs::read_to_string(format!("/proc/{pid}/cmdline"))
            .is_ok_and(|c| c.split('\0').nth(1) == Some(command))
    };
    children(pid)?
        .into_iter()
        .find(runs)
        .with_context(|| format!("process {pid} has no child {command}"))
}

/// Runs a command to its end and returns what it printed.
///
/// # Errors
/// When it cannot be run.
pub fn run(command: &mut Command) -> Result<Output> {
    command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("run {command:?}"))
}

/// Waits until `ready` answers something.
///
/// # Errors
/// When the patience ends first.
pub fn until<T>(patience: Duration, what: &str, mut ready: impl FnMut() -> Option<T>) -> Result<T> {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(answer) = ready() {
            return Ok(answer);
        }
        if Instant::now() > deadline {
            bail!("waited {patience:?} until {what}");
        }
        thread::sleep(LOOK);
    }
}
