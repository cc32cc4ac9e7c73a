//! The three sockets that the mounter binds: for the agent, and, in the agent's stead, for kubelet.
//!
//! Each lies in a folder that only its owner can write, is made with mode 0600 from the first moment on, and
//! replaces a stale socket of the same name, never anything else.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, FileType, FlockOperation, Gid, Mode, OFlags, Uid, chownat, fchmod, fchown, flock,
    fstat, mkdirat, open, statat, unlinkat,
};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with,
};
use thiserror::Error;

const BACKLOG: i32 = 128;

/// Why a socket could not be bound.
#[derive(Debug, Error)]
pub enum SocketError {
    /// The folder belongs to somebody else, or others may write in it.
    #[error(
        "{folder}: must be a folder of root's that nobody else can write in (found owner {uid}, mode {mode:o})"
    )]
    OpenFolder {
        /// The folder.
        folder: PathBuf,
        /// Its owner.
        uid: u32,
        /// Its mode.
        mode: u32,
    },
    /// Something that is no socket has the socket's name.
    #[error("{path}: is in the way and not a socket; remove it")]
    InTheWay {
        /// The path.
        path: PathBuf,
    },
    /// Another mounter is at work.
    #[error("{folder}: another mounter uses this folder")]
    Taken {
        /// The folder.
        folder: PathBuf,
    },
    /// A system call failed.
    #[error("{path}: {call} failed")]
    Os {
        /// The path.
        path: PathBuf,
        /// The system call.
        call: &'static str,
        /// What the kernel said.
        source: Errno,
    },
}

/// A bound, listening socket, and where it lies.
#[derive(Debug)]
pub(super) struct Bound {
    pub(super) fd: OwnedFd,
    path: PathBuf,
}

impl Bound {
    /// Removes the socket from the file system.
    pub(super) fn remove(&self) {
        // It is stale from here on, and the next start would remove it too.
        let _gone = unlinkat(CWD, &self.path, AtFlags::empty());
    }
}

/// Takes the folder that the two processes share: root's, the agent's group may pass, nobody else; one mounter.
/// The lock lasts as long as the result.
pub(super) fn shared_folder(folder: &Path, agent_gid: u32) -> Result<OwnedFd, SocketError> {
    let failed = |call| os(folder, call);
    make_folder(folder)?;
    let fd = open_folder(folder)?;
    let stat = fstat(&fd).map_err(failed("fstat"))?;
    // An emptyDir comes with mode 0777; one that is not root's is not ours to take.
    if stat.st_uid != 0 {
        return Err(SocketError::OpenFolder {
            folder: folder.to_owned(),
            uid: stat.st_uid,
            mode: stat.st_mode & 0o7777,
        });
    }
    fchown(&fd, Some(Uid::ROOT), Some(Gid::from_raw(agent_gid))).map_err(failed("fchown"))?;
    fchmod(&fd, Mode::from_raw_mode(0o750)).map_err(failed("fchmod"))?;
    match flock(&fd, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(fd),
        Err(Errno::AGAIN) => Err(SocketError::Taken {
            folder: folder.to_owned(),
        }),
        Err(source) => Err(failed("flock")(source)),
    }
}

/// Takes a folder for kubelet's eyes: made 0700 if missing, refused if others may write in it.
pub(super) fn private_folder(folder: &Path) -> Result<(), SocketError> {
    make_folder(folder)?;
    let stat = fstat(open_folder(folder)?).map_err(os(folder, "fstat"))?;
    if stat.st_uid == 0 && stat.st_mode & 0o022 == 0 {
        Ok(())
    } else {
        Err(SocketError::OpenFolder {
            folder: folder.to_owned(),
            uid: stat.st_uid,
            mode: stat.st_mode & 0o7777,
        })
    }
}

/// Binds the socket that the agent connects to.
pub(super) fn bind_for_agent(path: PathBuf, agent_uid: u32) -> Result<Bound, SocketError> {
    let bound = bind_at(path, SocketType::SEQPACKET)?;
    chownat(
        CWD,
        &bound.path,
        Some(Uid::from_raw(agent_uid)),
        None,
        AtFlags::SYMLINK_NOFOLLOW,
    )
    .map_err(os(&bound.path, "chown"))?;
    Ok(bound)
}

/// Binds a socket that kubelet connects to and the agent accepts at.
pub(super) fn bind_for_kubelet(path: PathBuf) -> Result<Bound, SocketError> {
    bind_at(path, SocketType::STREAM)
}

fn bind_at(path: PathBuf, kind: SocketType) -> Result<Bound, SocketError> {
    remove_stale(&path)?;
    let failed = |call| os(&path, call);
    let address = SocketAddrUnix::new(&path).map_err(failed("address"))?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let fd = socket_with(AddressFamily::UNIX, kind, flags, None).map_err(failed("socket"))?;
    // A unix socket passes its mode on to the file that bind makes.
    fchmod(&fd, Mode::from_raw_mode(0o600)).map_err(failed("fchmod"))?;
    bind(&fd, &address).map_err(failed("bind"))?;
    listen(&fd, BACKLOG).map_err(failed("listen"))?;
    Ok(Bound { fd, path })
}

fn remove_stale(path: &Path) -> Result<(), SocketError> {
    match statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Socket => {
            unlinkat(CWD, path, AtFlags::empty()).map_err(os(path, "unlink"))
        }
        Ok(_) => Err(SocketError::InTheWay {
            path: path.to_owned(),
        }),
        Err(Errno::NOENT) => Ok(()),
        Err(source) => Err(os(path, "stat")(source)),
    }
}

fn make_folder(folder: &Path) -> Result<(), SocketError> {
    match mkdirat(CWD, folder, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(source) => Err(os(folder, "mkdir")(source)),
    }
}

fn open_folder(folder: &Path) -> Result<OwnedFd, SocketError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    open(folder, flags, Mode::empty()).map_err(os(folder, "open"))
}

fn os(path: &Path, call: &'static str) -> impl Fn(Errno) -> SocketError {
    move |source| SocketError::Os {
        path: path.to_owned(),
        call,
        source,
    }
}

impl AsFd for Bound {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
