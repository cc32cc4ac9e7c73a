//! The mounter's life: bind, give up privileges, then answer one request after the other until a signal comes.
//!
//! One thread does all of it: requests take microseconds, and nothing here can be in two states at once. The
//! mounter never waits for the agent, whose connection is replaced by a newer one at any time.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use thiserror::Error;

use super::confine::{ConfineError, confine};
use super::error::MountError;
use super::failpoint::Failpoints;
use super::signals::{Told, told};
use super::sockets::{
    Bound, SocketError, bind_for_agent, bind_for_kubelet, private_folder, shared_folder,
};
use super::tmpfs::VolumeLimits;
use super::volumes::Volumes;
use crate::config::registration_socket;
use crate::ipc::server::{Connection, ConnectionError, Received};
use crate::ipc::{Answer, Request, SOCKET_NAME};
use crate::telemetry::chain;

/// Most requests that are answered before signals and new connections are looked at again.
const BURST: usize = 64;

/// What the mounter is to do; all paths absolute.
#[derive(Debug, Clone)]
pub struct MounterSettings {
    /// The driver's name; the registration socket is [`registration_socket`] of it.
    pub driver: String,
    /// Kubelet's folder, the one that holds `pods`.
    pub kubelet_dir: PathBuf,
    /// The CSI socket; its folder is made if missing.
    pub csi_socket: PathBuf,
    /// Where kubelet looks for plugins.
    pub registration_dir: PathBuf,
    /// The folder that mounter and agent share; root's, made if missing.
    pub ipc_dir: PathBuf,
    /// The agent's user.
    pub agent_uid: u32,
    /// The agent's group, which may pass through `ipc_dir`.
    pub agent_gid: u32,
    /// How much a volume may hold.
    pub limits: VolumeLimits,
    /// Places to die at, for crash tests.
    pub danger_failpoints: Failpoints,
}

/// Why the mounter could not start, or had to end.
#[derive(Debug, Error)]
pub enum ServeError {
    /// Kubelet's folder cannot be used, or this process cannot mount.
    #[error("volumes cannot be mounted under kubelet's folder")]
    Volumes(#[from] MountError),
    /// A socket cannot be bound.
    #[error("a socket cannot be bound")]
    Socket(#[from] SocketError),
    /// The CSI socket's path has no folder.
    #[error("csi_socket must be an absolute path of a file")]
    CsiSocket,
    /// Privileges cannot be given up.
    #[error("privileges cannot be given up")]
    Confine(#[from] ConfineError),
    /// A system call failed.
    #[error("{call} failed")]
    Os {
        /// The system call.
        call: &'static str,
        /// What the kernel said.
        source: Errno,
    },
}

/// Runs the mounter until SIGTERM or SIGINT. Mounts stay; its sockets go. On SIGHUP it calls `reload`.
///
/// Must be called by a process with one thread only, as root. Afterwards the process can do little else.
///
/// # Errors
/// [`ServeError`], all of them before the first request but a failed poll.
pub fn serve(settings: &MounterSettings, reload: &dyn Fn()) -> Result<(), ServeError> {
    let mut mounter = Mounter::start(settings)?;
    let signals = block_signals()?;
    confine()?;
    let facts = mounter.volumes.facts();
    tracing::info!(
        noswap = facts.noswap,
        inode_flags = facts.inode_flags,
        selinux = mounter.volumes.labels_files(),
        "the mounter serves"
    );
    if !facts.inode_flags {
        tracing::warn!(
            "this kernel's tmpfs has no inode flags (6.6 has): volumes rest on csi.readOnly alone"
        );
    }
    let ended = mounter.run(&signals, reload);
    for bound in [&mounter.registration, &mounter.csi, &mounter.agent] {
        bound.remove();
    }
    ended
}

struct Mounter {
    volumes: Volumes,
    agent_uid: u32,
    /// Held for its lock.
    _shared: OwnedFd,
    agent: Bound,
    csi: Bound,
    registration: Bound,
    connection: Option<Connection>,
}

impl Mounter {
    fn start(settings: &MounterSettings) -> Result<Self, ServeError> {
        let limits = settings.limits;
        let volumes = Volumes::open(
            &settings.kubelet_dir,
            limits,
            settings.danger_failpoints.clone(),
        )?;
        let shared = shared_folder(&settings.ipc_dir, settings.agent_gid)?;
        let agent = bind_for_agent(settings.ipc_dir.join(SOCKET_NAME), settings.agent_uid)?;
        private_folder(settings.csi_socket.parent().ok_or(ServeError::CsiSocket)?)?;
        let csi = bind_for_kubelet(settings.csi_socket.clone())?;
        private_folder(&settings.registration_dir)?;
        let name = registration_socket(&settings.driver);
        let registration = bind_for_kubelet(settings.registration_dir.join(name))?;
        let agent_uid = settings.agent_uid;
        Ok(Self {
            volumes,
            agent_uid,
            _shared: shared,
            agent,
            csi,
            registration,
            connection: None,
        })
    }

    fn run(&mut self, signals: &SignalFd, reload: &dyn Fn()) -> Result<(), ServeError> {
        loop {
            let mut ready = vec![
                PollFd::new(signals, PollFlags::IN),
                PollFd::new(&self.agent, PollFlags::IN),
            ];
            if let Some(connection) = &self.connection {
                ready.push(PollFd::new(connection, PollFlags::IN));
            }
            match poll(&mut ready, None) {
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(source) => return Err(os("poll")(source)),
            }
            let woken: Vec<bool> = ready.iter().map(|fd| !fd.revents().is_empty()).collect();
            drop(ready);
            let [signalled, connecting, ref asking @ ..] = *woken else {
                continue;
            };
            if signalled {
                match told(signals) {
                    Some(Told::End) => {
                        tracing::info!("the mounter ends; mounts stay");
                        return Ok(());
                    }
                    Some(Told::Reload) => reload(),
                    None => {}
                }
            }
            if asking == [true] {
                self.converse();
            }
            if connecting {
                self.accept();
            }
        }
    }

    fn accept(&mut self) {
        let listeners = [self.csi.as_fd(), self.registration.as_fd()];
        match Connection::accept(
            self.agent.as_fd(),
            self.agent_uid,
            self.volumes.facts(),
            listeners,
        ) {
            Ok(connection) => {
                tracing::info!(
                    replaced = self.connection.is_some(),
                    "the agent has connected"
                );
                self.connection = Some(connection);
            }
            Err(error) => tracing::warn!(error = %chain(&error), "a connection was refused"),
        }
    }

    /// Answers what the agent has asked; its connection ends with the first thing that is wrong with it.
    fn converse(&mut self) {
        let Some(connection) = &self.connection else {
            return;
        };
        for _ in 0..BURST {
            let done = match connection.receive() {
                Ok(Some(received)) => answer(&self.volumes, connection, received),
                Ok(None) => return,
                Err(error) => Err(error),
            };
            if let Err(error) = done {
                tracing::warn!(error = %chain(&error), "the agent's connection has ended");
                self.connection = None;
                return;
            }
        }
    }
}

fn answer(
    volumes: &Volumes,
    connection: &Connection,
    mut received: Received,
) -> Result<(), ConnectionError> {
    let memfd = received.memfd.take();
    let (done, metadata) = match carry_out(volumes, &received.request, memfd) {
        Ok((answer, metadata)) => (Ok(answer), metadata),
        Err(error) => {
            let target = received.request.target().map(tracing::field::display);
            tracing::warn!(
                verb = received.request.name(),
                target,
                error = %chain(&error),
                "refused"
            );
            (Err(error.fault()), None)
        }
    };
    connection.answer(&received, &done, metadata.as_ref().map(AsFd::as_fd))
}

fn carry_out(
    volumes: &Volumes,
    request: &Request,
    memfd: Option<OwnedFd>,
) -> Result<(Answer, Option<OwnedFd>), MountError> {
    let answer = match (request, memfd) {
        (Request::Attach(target), _) => Answer::Attached {
            made: volumes.attach(target)?,
        },
        (
            Request::Write {
                target,
                memfd_bytes,
            },
            Some(memfd),
        ) => Answer::Written {
            changed: volumes.write(target, memfd, *memfd_bytes)?,
        },
        (Request::Write { .. }, None) => return Err(MountError::NotAsWritten("no memory file")),
        (Request::Wipe(target), _) => Answer::Wiped {
            changed: volumes.wipe(target)?,
        },
        (Request::Detach(target), _) => Answer::Detached {
            was_mounted: volumes.detach(target)?,
        },
        (Request::List { after }, _) => {
            let (page, more) = volumes.list(after.as_ref())?;
            Answer::Volumes { page, more }
        }
        (Request::Stat(target), _) => {
            let (stat, metadata) = volumes.stat(target)?;
            return Ok((Answer::Stat(stat), metadata));
        }
    };
    Ok((answer, None))
}

/// SIGTERM, SIGINT and SIGHUP, to be polled for.
fn block_signals() -> Result<SignalFd, ServeError> {
    let raw = |call| move |errno: nix::Error| os(call)(Errno::from_raw_os_error(errno as i32));
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        signals.add(signal);
    }
    signals.thread_block().map_err(raw("sigprocmask"))?;
    SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .map_err(raw("signalfd"))
}

fn os(call: &'static str) -> impl Fn(Errno) -> ServeError {
    move |source| ServeError::Os { call, source }
}
