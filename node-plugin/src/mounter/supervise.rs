//! Starts mounter and agent where no container runtime does, and starts again whichever ends.
//!
//! The supervisor opens no socket and reads no input. It is a process of its own since the mounter, once confined,
//! can start nobody; the agent runs under its own uid from its first instruction on.
//!
//! Nothing of the supervisor's starter reaches the children, since an agent that was taken over must not type into
//! root's shell: no terminal but for writing logs, no session, no descriptor, and of the environment what [`PASSED_ON`]
//! names.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, getppid, kill_process, set_parent_process_death_signal, setsid};
use thiserror::Error;

use super::signals::{Told, told};

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// Who ran this long starts again after the first pause.
const HEALTHY: Duration = Duration::from_secs(30);
/// How long the children may take to end.
const GRACE: Duration = Duration::from_secs(20);

/// The variables that children get, if they are set: where the service manager hears that the agent is ready.
const PASSED_ON: [&str; 1] = ["NOTIFY_SOCKET"];
/// Tells a child its supervisor's pid.
const SUPERVISOR: &str = "ATTACHE_SUPERVISOR_PID";

/// A process to be kept running: this program, with other arguments.
#[derive(Debug, Clone)]
pub struct Child {
    /// For logs.
    pub name: &'static str,
    /// What follows the program's name.
    pub args: Vec<OsString>,
    /// The uid and gid to run under, without supplementary groups; `None` stays root.
    pub user: Option<(u32, u32)>,
}

/// Why there is no supervision.
#[derive(Debug, Error)]
pub enum SuperviseError {
    /// This program's file cannot be found.
    #[error("this program's own file cannot be found")]
    Program(#[source] io::Error),
    /// Inherited descriptors would be passed on.
    #[error("inherited descriptors cannot be kept from the children")]
    Descriptors(#[source] attache_arena::ArenaError),
    /// The supervisor ended before this process had begun.
    #[error("the supervisor is gone")]
    Orphan,
    /// A system call failed.
    #[error("{call} failed")]
    Os {
        /// The system call.
        call: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Runs `children`, started in this order, until SIGTERM or SIGINT; then ends them, the last one first. One that ends
/// by itself is started again, after a pause that doubles from 0.1 s to 10 s. SIGHUP is handed on to all of them.
///
/// # Errors
/// [`SuperviseError`], before anything is started.
pub fn supervise(children: Vec<Child>) -> Result<(), SuperviseError> {
    let program = std::env::current_exe().map_err(SuperviseError::Program)?;
    attache_arena::inherit_nothing().map_err(SuperviseError::Descriptors)?;
    let signals = Signals::block()?;
    // For everything that is started from here on.
    rustix::thread::set_no_new_privs(true).map_err(|errno| SuperviseError::Os {
        call: "prctl(PR_SET_NO_NEW_PRIVS)",
        source: errno.into(),
    })?;
    let mut kept: Vec<Kept> = children.into_iter().map(Kept::new).collect();
    loop {
        for child in &mut kept {
            child.keep_up(&program);
        }
        let due = kept.iter().filter_map(Kept::pause_left).min();
        match signals.wait(due) {
            Some(Told::End) => break,
            Some(Told::Reload) => kept.iter().for_each(Kept::reload),
            None => {}
        }
    }
    let deadline = Instant::now() + GRACE;
    for child in kept.iter_mut().rev() {
        child.end(&signals, deadline);
    }
    Ok(())
}

/// What a process that may be supervised does first: it undoes the blocked signals that it inherits, leaves the session
/// of whoever started its supervisor, and asks to be killed with its supervisor: an asked one would go on answering kubelet for a while beside its successor, and
/// killing is safe at any instant. Started by anybody else it only unblocks signals: the death signal comes when the
/// parent's **thread** ends, which means nothing under a container runtime.
///
/// # Errors
/// [`SuperviseError::Orphan`]; [`SuperviseError::Os`].
pub fn begin_supervised() -> Result<(), SuperviseError> {
    let failed = |call| move |source: io::Error| SuperviseError::Os { call, source };
    SigSet::all()
        .thread_unblock()
        .map_err(io::Error::from)
        .map_err(failed("sigprocmask"))?;
    let Some(supervisor) = std::env::var_os(SUPERVISOR) else {
        return Ok(());
    };
    set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
        .map_err(io::Error::from)
        .map_err(failed("prctl(PR_SET_PDEATHSIG)"))?;
    // It may have died before the call above.
    let parent = getppid().map(|pid| pid.as_raw_nonzero().to_string());
    if parent.is_none_or(|parent| supervisor != *parent) {
        return Err(SuperviseError::Orphan);
    }
    setsid()
        .map(drop)
        .map_err(io::Error::from)
        .map_err(failed("setsid"))
}

struct Kept {
    child: Child,
    process: Option<std::process::Child>,
    started: Instant,
    due: Instant,
    pause: Duration,
}

impl Kept {
    fn new(child: Child) -> Self {
        let now = Instant::now();
        Self {
            child,
            process: None,
            started: now,
            due: now,
            pause: FIRST_PAUSE,
        }
    }

    /// How long until this child is to be started; `None` while it runs.
    fn pause_left(&self) -> Option<Duration> {
        self.process
            .is_none()
            .then(|| self.due.saturating_duration_since(Instant::now()))
    }

    /// Notices an end, and starts what is due.
    fn keep_up(&mut self, program: &Path) {
        if let Some(process) = &mut self.process {
            let Ok(Some(status)) = process.try_wait() else {
                return;
            };
            tracing::warn!(name = self.child.name, %status, "ended by itself");
            self.process = None;
            if self.started.elapsed() >= HEALTHY {
                self.pause = FIRST_PAUSE;
            }
            self.due = Instant::now() + self.pause;
            self.pause = LONGEST_PAUSE.min(self.pause * 2);
        }
        if Instant::now() < self.due {
            return;
        }
        self.started = Instant::now();
        match self.command(program).spawn() {
            Ok(process) => {
                tracing::info!(name = self.child.name, pid = process.id(), "started");
                self.process = Some(process);
            }
            Err(error) => {
                tracing::error!(name = self.child.name, %error, "cannot be started");
                self.due = Instant::now() + LONGEST_PAUSE;
            }
        }
    }

    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(PathBuf::from(program));
        command.args(&self.child.args);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log_output());
        let passed_on = PASSED_ON
            .iter()
            .filter_map(|name| Some((name, std::env::var_os(name)?)));
        command.env_clear().envs(passed_on);
        command.env(SUPERVISOR, std::process::id().to_string());
        if let Some((uid, gid)) = self.child.user {
            command.gid(gid).uid(uid);
        }
        command
    }

    /// Hands SIGHUP on. A child that has just begun may not be ready for it, and is then started again with what it
    /// would have read.
    fn reload(&self) {
        if let Some(process) = &self.process {
            // It may be gone already.
            let _told = kill_process(Pid::from_child(process), rustix::process::Signal::HUP);
        }
    }

    /// Asks the child to end, waits, and kills it at the deadline.
    fn end(&mut self, signals: &Signals, deadline: Instant) {
        let Some(process) = &mut self.process else {
            return;
        };
        // It may be gone already.
        let _asked = kill_process(Pid::from_child(process), rustix::process::Signal::TERM);
        while let Ok(None) = process.try_wait() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                tracing::warn!(name = self.child.name, "does not end, and is killed");
                let _killed = process.kill();
                let _reaped = process.wait();
                return;
            }
            let _told = signals.wait(Some(left));
        }
    }
}

/// Standard error, where logs go; a terminal, which comes open for reading too, is opened anew for writing alone.
fn log_output() -> Stdio {
    if !io::stderr().is_terminal() {
        return Stdio::inherit();
    }
    let own = File::options()
        .write(true)
        .custom_flags(libc::O_NOCTTY)
        .open("/proc/self/fd/2");
    own.map_or_else(|_| Stdio::null(), Stdio::from)
}

/// SIGTERM, SIGINT, SIGHUP and SIGCHLD, blocked and readable.
struct Signals(SignalFd);

impl Signals {
    fn block() -> Result<Self, SuperviseError> {
        let failed = |call| {
            move |errno: nix::Error| SuperviseError::Os {
                call,
                source: errno.into(),
            }
        };
        let mut signals = SigSet::empty();
        for signal in [
            Signal::SIGTERM,
            Signal::SIGINT,
            Signal::SIGHUP,
            Signal::SIGCHLD,
        ] {
            signals.add(signal);
        }
        signals.thread_block().map_err(failed("sigprocmask"))?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        SignalFd::with_flags(&signals, flags)
            .map(Self)
            .map_err(failed("signalfd"))
    }

    /// Waits for a signal, `limit` at most, and answers what they tell.
    fn wait(&self, limit: Option<Duration>) -> Option<Told> {
        let limit = limit.and_then(|limit| Timespec::try_from(limit).ok());
        // Interrupted or timed out: there is nothing to read then.
        let _woken = poll(&mut [PollFd::new(&self.0, PollFlags::IN)], limit.as_ref());
        told(&self.0)
    }
}
