//! What the program's commands do: supervise, mount, or be the agent.
//!
//! `serve` is for a machine without a container runtime of its own: it starts mounter and agent and keeps them up. In
//! a pod, each is a container that runs its own command.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use rustix::fs::{
    CWD, Dir, DirEntry, Gid, Mode, OFlags, Uid, fchmod, fchown, fstat, mkdirat, open,
};
use rustix::io::Errno;
use thiserror::Error;

use crate::agent::{self, AgentError};
use crate::config::Config;
use crate::mounter::{self, Child, ServeError, SuperviseError, begin_supervised, supervise};
use crate::telemetry::{self, LogFilter, TelemetryError};

/// The hidden command of the privileged half.
pub const MOUNTER: &str = "mounter";
/// The hidden command of the unprivileged half.
pub const AGENT: &str = "agent";
/// What `health` exits with when the agent is not ready.
const NOT_READY: u8 = 8;

/// Why a command failed.
#[derive(Debug, Error)]
pub enum RunError {
    /// Mounting takes root.
    #[error("must be started as root: it mounts volumes (and gives up everything else)")]
    NotRoot,
    /// Logging.
    #[error(transparent)]
    Log(#[from] TelemetryError),
    /// The state folder is somebody else's.
    #[error("agent.state_dir {}: belongs to uid {found}; it must be root's or the agent's", path.display())]
    StateOwner {
        /// The folder.
        path: PathBuf,
        /// Its owner.
        found: u32,
    },
    /// The state folder is one of root's, with something in it.
    #[error(
        "agent.state_dir {path}: is root's and not empty, so it may be somebody else's; name a folder that is not there yet, or give this one to the agent: chown {uid}:{gid} {path}",
        path = path.display()
    )]
    StateInUse {
        /// The folder.
        path: PathBuf,
        /// The agent's user.
        uid: u32,
        /// The agent's group.
        gid: u32,
    },
    /// The state folder cannot be made.
    #[error("agent.state_dir {}: {call} failed", path.display())]
    State {
        /// The folder.
        path: PathBuf,
        /// The system call.
        call: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// No agent tells of itself.
    #[error(
        "listen.health is not set, so the agent tells nobody whether it is ready; the CSI socket's Probe does"
    )]
    NoHealth,
    /// No agent answers.
    #[error("no agent answers on {} (listen.health)", path.display())]
    Health {
        /// The socket.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Supervision.
    #[error(transparent)]
    Supervise(#[from] SuperviseError),
    /// The mounter.
    #[error(transparent)]
    Mounter(#[from] ServeError),
    /// The agent.
    #[error(transparent)]
    Agent(#[from] AgentError),
}

/// Starts mounter and agent and keeps them up, until SIGTERM or SIGINT; hands SIGHUP on to both.
///
/// # Errors
/// [`RunError`], before anything is started.
pub fn serve(config: &Config, file: &Path) -> Result<(), RunError> {
    require_root()?;
    let _filter = LogFilter::start(config, file)?;
    let args = |command: &str| {
        [
            OsString::from(command),
            OsString::from("--config"),
            file.as_os_str().to_owned(),
            OsString::from("--node-name"),
            OsString::from(&config.node.name),
        ]
        .to_vec()
    };
    let agent = (config.agent.uid, config.agent.gid);
    supervise(vec![
        Child {
            name: MOUNTER,
            args: args(MOUNTER),
            user: None,
        },
        Child {
            name: AGENT,
            args: args(AGENT),
            user: Some(agent),
        },
    ])?;
    Ok(())
}

/// Is the mounter. Makes the agent's state folder first, since the agent cannot, and waits for the mounter to be there.
///
/// # Errors
/// [`RunError`].
pub fn mounter(config: &Config, file: &Path) -> Result<(), RunError> {
    begin_supervised()?;
    require_root()?;
    let filter = LogFilter::start(config, file)?;
    make_state_dir(&config.agent.state_dir, config.agent.uid, config.agent.gid)?;
    mounter::serve(&config.mounter(), &|| filter.reload())?;
    Ok(())
}

/// Is the agent.
///
/// # Errors
/// [`RunError`].
pub fn agent(config: &Config, file: &Path) -> Result<(), RunError> {
    begin_supervised()?;
    let filter = LogFilter::start(config, file)?;
    agent::run(config, &filter)?;
    Ok(())
}

/// Asks the running agent whether it is ready, as its own user: 0 if it is (or answers at all, where only `live` is asked),
/// else 8.
///
/// # Errors
/// [`RunError::Health`] when no agent answers.
pub fn health(config: &Config, live: bool) -> Result<ExitCode, RunError> {
    let path = config.listen.health.as_deref().ok_or(RunError::NoHealth)?;
    let ready = agent::ask_health(path).map_err(|source| RunError::Health {
        path: path.to_owned(),
        source,
    })?;
    Ok(if ready || live {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(NOT_READY)
    })
}

/// Sees whether the log filter can be read; the only setting that its user alone can judge.
///
/// # Errors
/// [`RunError::Log`].
pub fn check(config: &Config) -> Result<(), RunError> {
    telemetry::parse(&config.telemetry)?;
    Ok(())
}

fn require_root() -> Result<(), RunError> {
    if rustix::process::geteuid().is_root() {
        Ok(())
    } else {
        Err(RunError::NotRoot)
    }
}

/// Makes the state folder, or takes the one that is there: 0700, the agent's.
fn make_state_dir(path: &Path, uid: u32, gid: u32) -> Result<(), RunError> {
    let failed = |call| {
        move |errno: Errno| RunError::State {
            path: path.to_owned(),
            call,
            source: errno.into(),
        }
    };
    match mkdirat(CWD, path, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(failed("mkdir")(errno)),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = open(path, flags, Mode::empty()).map_err(failed("open"))?;
    let found = fstat(&folder).map_err(failed("fstat"))?.st_uid;
    if found != 0 && found != uid {
        return Err(RunError::StateOwner {
            path: path.to_owned(),
            found,
        });
    }
    // A slip in the settings must not give a folder of the system away.
    if found == 0 {
        let mut entries = Dir::read_from(&folder).map_err(failed("getdents"))?;
        let holds = |entry: rustix::io::Result<DirEntry>| {
            entry.is_ok_and(|entry| entry.file_name() != c"." && entry.file_name() != c"..")
        };
        if entries.any(holds) {
            return Err(RunError::StateInUse {
                path: path.to_owned(),
                uid,
                gid,
            });
        }
    }
    // The mode first: what root's folder held is nobody else's to see at any moment.
    fchmod(&folder, Mode::RWXU).map_err(failed("fchmod"))?;
    fchown(&folder, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))).map_err(failed("fchown"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};

    use super::*;

    #[test]
    fn the_state_folder_is_the_agents_alone_and_nobody_elses_is_taken() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: needs root to give a folder away");
            return;
        }
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("state");
        for _ in 0..2 {
            make_state_dir(&path, 4840, 4841).unwrap();
            let folder = std::fs::metadata(&path).unwrap();
            assert_eq!(
                (folder.uid(), folder.gid(), folder.mode() & 0o7777),
                (4840, 4841, 0o700)
            );
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        chown(&path, Some(1000), None).unwrap();
        assert!(matches!(
            make_state_dir(&path, 4840, 4841),
            Err(RunError::StateOwner { found: 1000, .. })
        ));
        let system = parent.path().join("system");
        std::fs::create_dir(&system).unwrap();
        std::fs::set_permissions(&system, std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::write(system.join("passwd"), "").unwrap();
        let refused = make_state_dir(&system, 4840, 4841).unwrap_err();
        assert!(
            refused.to_string().contains("chown 4840:4841 "),
            "{refused}"
        );
        let kept = std::fs::metadata(&system).unwrap();
        assert_eq!((kept.uid(), kept.mode() & 0o7777), (0, 0o755));
        std::fs::remove_file(system.join("passwd")).unwrap();
        make_state_dir(&system, 4840, 4841).unwrap();
        let link = parent.path().join("link");
        symlink(&path, &link).unwrap();
        assert!(matches!(
            make_state_dir(&link, 4840, 4841),
            Err(RunError::State { call: "open", .. })
        ));
        assert!(matches!(
            make_state_dir(&parent.path().join("a/b"), 4840, 4841),
            Err(RunError::State { call: "mkdir", .. })
        ));
    }
}
