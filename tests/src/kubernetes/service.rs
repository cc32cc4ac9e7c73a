//! One long-running program of a cluster, in a control group of its own: on this machine, or on a node's.
//!
//! A service is a command and no more: it can be stopped, started again and found by a program that did not start it.

use std::{
    ffi::OsString,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;

use super::{cgroup::Cgroup, machine::Machine};
use crate::process::{self, Process, log_tail};

/// How long a service may take to become ready: these are large programs, and the tests share two cores.
const PATIENCE: Duration = Duration::from_secs(90);

/// A program, how it is started, and the process when this program started it.
pub struct Service {
    name: String,
    program: PathBuf,
    args: Vec<OsString>,
    environment: Vec<(String, OsString)>,
    inside: Option<Inside>,
    cgroup: Cgroup,
    log: PathBuf,
    process: Mutex<Option<Process>>,
}

/// Where a service runs when it is not on this machine.
struct Inside {
    /// Of the process that keeps the machine's namespaces.
    holder: Cgroup,
    /// The program, as it is seen there.
    program: String,
}

impl Service {
    /// A service called `name`, in the group `name` below the group `parent`, with its log in `logs`.
    ///
    /// # Errors
    /// When the group cannot be made, or the program is not there.
    pub fn new(name: &str, program: &Path, parent: &str, logs: &Path) -> Result<Self> {
        ensure!(
            program.exists(),
            "{} is not built: run tests/kubernetes/build.sh first",
            program.display()
        );
        Ok(Self {
            name: name.to_owned(),
            program: program.canonicalize()?,
            args: Vec::new(),
            environment: Vec::new(),
            inside: None,
            cgroup: Cgroup::create(&format!("{parent}/{name}"))?,
            log: logs.join(format!("{name}.log")),
            process: Mutex::new(None),
        })
    }

    /// With these arguments more.
    #[must_use]
    pub fn args<I: Into<OsString>>(mut self, args: impl IntoIterator<Item = I>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// With this variable in its environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.environment.push((name.to_owned(), value.into()));
        self
    }

    /// On a node's machine, where the same program lies at `program`.
    #[must_use]
    pub fn inside(mut self, machine: &Machine, program: &str) -> Self {
        self.inside = Some(Inside {
            holder: machine.holder_cgroup().clone(),
            program: program.to_owned(),
        });
        self
    }

    /// Its control group.
    #[must_use]
    pub fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }

    /// Starts it.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(&self) -> Result<()> {
        let mut command = Command::new("sh");
        // It enters the group before it is the program, so that nothing of it is ever outside.
        command
            .args(["-c", r#"echo 0 >"$0" && exec "$@""#])
            .arg(self.cgroup.entrance());
        if let Some(inside) = &self.inside {
            let holder = inside.holder.processes();
            let holder = holder.first().context("its machine is not booted")?;
            // `ip netns exec` would mount another /sys, without control groups.
            command
                .arg("nsenter")
                .arg(format!("--target={holder}"))
                .args(["--mount", "--net", &inside.program]);
        } else {
            command.arg(&self.program);
        }
        command
            .args(&self.args)
            .envs(self.environment.iter().map(|(n, v)| (n, v)));
        let process = Process::spawn(&mut command, &self.name, &self.log)?;
        *self.own() = Some(process);
        Ok(())
    }

    /// Waits until `ready` answers something.
    ///
    /// # Errors
    /// When the service ends or the patience does, with the log's end; when this program did not start it.
    pub fn wait_until<T>(&self, what: &str, ready: impl FnMut() -> Option<T>) -> Result<T> {
        self.own()
            .as_mut()
            .with_context(|| format!("{} was not started here", self.name))?
            .wait_within(PATIENCE, what, ready)
    }

    /// Lets go of it: it runs on when this is dropped.
    pub fn release(&self) {
        if let Some(process) = self.own().take() {
            let _ = process.release();
        }
    }

    /// The end of its log.
    #[must_use]
    pub fn log_tail(&self) -> String {
        log_tail(&self.log)
    }

    /// It runs.
    #[must_use]
    pub fn runs(&self) -> bool {
        self.main_process().is_some()
    }

    /// Asks its main process to end, and waits; what that started (containers) runs on.
    ///
    /// # Errors
    /// When it does not run, or does not end.
    pub fn stop(&self) -> Result<()> {
        self.end(Signal::TERM)
    }

    /// Kills its main process without warning, and waits; what that started runs on.
    ///
    /// # Errors
    /// As [`Service::stop`].
    pub fn kill(&self) -> Result<()> {
        self.end(Signal::KILL)
    }

    fn end(&self, signal: Signal) -> Result<()> {
        let pid = self
            .main_process()
            .with_context(|| format!("{} does not run", self.name))?;
        process::send(pid, signal)?;
        process::until(PATIENCE, &format!("{} has ended", self.name), || {
            self.main_process().is_none().then_some(())
        })?;
        // The process is this program's child when it was started here.
        if let Some(mut process) = self.own().take() {
            process.wait_for_end()?;
        }
        Ok(())
    }

    /// The process in the group that runs the program itself. Its path says nothing across mount namespaces: the file does.
    fn main_process(&self) -> Option<u32> {
        let identity = |path: &Path| fs::metadata(path).ok().map(|m| (m.dev(), m.ino()));
        let program = identity(&self.program)?;
        self.cgroup
            .processes()
            .into_iter()
            .find(|pid| identity(Path::new(&format!("/proc/{pid}/exe"))) == Some(program))
    }

    fn own(&self) -> MutexGuard<'_, Option<Process>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
