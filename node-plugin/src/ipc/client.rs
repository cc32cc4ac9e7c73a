//! The agent's end: one connection to the mounter, one request at a time.
//!
//! Blocking: async callers use `spawn_blocking`. A request that fails on the way leaves no connection behind, and
//! the caller connects again; every verb may be repeated. The agent keeps one thread in
//! `loop { connect(); hand the listeners on; wait_closed() }`, so that it also notices a mounter that restarts
//! while nothing is asked of it.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{RecvFlags, SendFlags, SocketAddrUnix, connect};
use thiserror::Error;

use super::SOCKET_NAME;
use super::codec::decode_hello;
use super::generation::MAX_METADATA_BYTES;
use super::message::{ANSWER_BYTES, Answer, Facts, Fault, MessageError, Request, VolumeStat};
use super::packet::{self, Packet};
use super::seal::SealedGeneration;
use crate::volume::Target;

/// How long one request may take. The longest real one takes milliseconds.
const DEADLINE: Duration = Duration::from_secs(10);

/// The answer's verb was checked against the request's, so this says that a verb above is matched to the wrong answer.
const MISPLACED: MounterError = MounterError::Protocol(MessageError::OutOfOrder);

/// Why a request was not done.
#[derive(Debug, Error)]
pub enum MounterError {
    /// The mounter understood and refused, or failed.
    #[error("the mounter refuses: {0}")]
    Refused(Fault),
    /// There is no connection; a request in flight may or may not have been done.
    #[error("the mounter is not connected")]
    NotConnected,
    /// The connection failed and is gone.
    #[error("the connection to the mounter failed in {call}")]
    Lost {
        /// The system call.
        call: &'static str,
        /// What the kernel said; EAGAIN is the deadline.
        source: Errno,
    },
    /// Another user listens at the mounter's socket.
    #[error("the mounter's socket belongs to uid {found}, not to {expected}")]
    WrongPeer {
        /// The mounter's.
        expected: u32,
        /// The one at the other end.
        found: u32,
    },
    /// The other end does not keep to the protocol; the connection is gone.
    #[error("the mounter's answer is not one")]
    Protocol(#[from] MessageError),
}

/// What the mounter sends first.
#[derive(Debug)]
pub struct Hello {
    /// What its kernel can do.
    pub facts: Facts,
    /// The bound, listening CSI socket.
    pub csi: OwnedFd,
    /// The bound, listening plugin registration socket.
    pub registration: OwnedFd,
}

/// What a volume holds.
#[derive(Debug, Default)]
pub struct VolumeState {
    /// As the mounter reads it back.
    pub stat: VolumeStat,
    /// The content of `.attache.json`; none when nothing was written, the volume was wiped, or it cannot be read.
    pub metadata: Option<Vec<u8>>,
}

/// The mounter, as the agent sees it.
pub struct MounterClient {
    socket_path: PathBuf,
    mounter_uid: u32,
    link: Mutex<Option<Link>>,
    /// Of the mounter that was connected last.
    facts: Mutex<Facts>,
}

struct Link {
    socket: OwnedFd,
    last_id: u32,
}

impl MounterClient {
    /// A client for the mounter in `ipc_dir` that runs as `mounter_uid` (0, outside of tests); not yet connected.
    #[must_use]
    pub fn new(ipc_dir: &Path, mounter_uid: u32) -> Self {
        Self {
            socket_path: ipc_dir.join(SOCKET_NAME),
            mounter_uid,
            link: Mutex::new(None),
            facts: Mutex::default(),
        }
    }

    /// Connects, in place of any earlier connection, and receives the listeners. The ones of an earlier connection
    /// are to be dropped: their sockets may be gone from the file system.
    ///
    /// # Errors
    /// [`MounterError::Lost`] when nobody answers; [`MounterError::WrongPeer`]; [`MounterError::Protocol`].
    pub fn connect(&self) -> Result<Hello, MounterError> {
        let lost = |call| move |source| MounterError::Lost { call, source };
        let address = SocketAddrUnix::new(&self.socket_path).map_err(lost("address"))?;
        let socket = packet::socket().map_err(lost("socket"))?;
        for direction in [Timeout::Recv, Timeout::Send] {
            set_socket_timeout(&socket, direction, Some(DEADLINE)).map_err(lost("setsockopt"))?;
        }
        connect(&socket, &address).map_err(lost("connect"))?;
        let found = packet::peer_uid(socket.as_fd()).map_err(lost("SO_PEERCRED"))?;
        if found != self.mounter_uid {
            return Err(MounterError::WrongPeer {
                expected: self.mounter_uid,
                found,
            });
        }
        let mut packet = receive(&socket)?;
        let facts = decode_hello(packet.bytes())?;
        let (Some(registration), Some(csi), true) =
            (packet.fds.pop(), packet.fds.pop(), packet.fds.is_empty())
        else {
            return Err(MessageError::Descriptors.into());
        };
        if let Some(old) = self.link().replace(Link { socket, last_id: 0 }) {
            packet::shut_down(&old.socket);
        }
        *self.facts.lock().unwrap_or_else(PoisonError::into_inner) = facts;
        Ok(Hello {
            facts,
            csi,
            registration,
        })
    }

    /// What the kernel can do, by the word of the mounter that was connected last.
    #[must_use]
    pub fn facts(&self) -> Facts {
        *self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the present connection, if there is one: whoever waits for that connects again.
    pub fn disconnect(&self) {
        if let Some(link) = self.link().take() {
            packet::shut_down(&link.socket);
        }
    }

    /// Waits until the present connection has ended; returns at once where there is none.
    pub fn wait_closed(&self) {
        let socket = match &*self.link() {
            Some(link) => link.socket.try_clone(),
            None => return,
        };
        let Ok(socket) = socket else { return };
        // POLLHUP is always watched for; POLLIN is not, since answers belong to the requests.
        let mut ended = [PollFd::new(&socket, PollFlags::RDHUP)];
        while let Err(Errno::INTR) | Ok(0) = poll(&mut ended, None) {}
    }

    /// Mounts the volume, and answers whether it was not mounted before.
    ///
    /// # Errors
    /// [`MounterError`].
    pub fn attach(&self, target: &Target) -> Result<bool, MounterError> {
        let Answer::Attached { made } = self.ask(&Request::Attach(target.clone()), None)?.0 else {
            return Err(MISPLACED);
        };
        Ok(made)
    }

    /// Swaps the generation in, and answers whether the volume did not hold it before.
    ///
    /// # Errors
    /// [`MounterError`]; the volume then holds what it held before, or the new generation, and in both cases whole
    /// unless [`stat`](Self::stat) says otherwise.
    pub fn write(
        &self,
        target: &Target,
        generation: &SealedGeneration,
    ) -> Result<bool, MounterError> {
        let request = Request::Write {
            target: target.clone(),
            memfd_bytes: generation.memfd_bytes(),
        };
        let Answer::Written { changed } = self.ask(&request, Some(generation))?.0 else {
            return Err(MISPLACED);
        };
        Ok(changed)
    }

    /// Empties the volume, and answers whether it was not empty before.
    ///
    /// # Errors
    /// [`MounterError`].
    pub fn wipe(&self, target: &Target) -> Result<bool, MounterError> {
        let Answer::Wiped { changed } = self.ask(&Request::Wipe(target.clone()), None)?.0 else {
            return Err(MISPLACED);
        };
        Ok(changed)
    }

    /// Unmounts the volume, and answers whether it was mounted. One that is not there is done already.
    ///
    /// # Errors
    /// [`MounterError`].
    pub fn detach(&self, target: &Target) -> Result<bool, MounterError> {
        let Answer::Detached { was_mounted } = self.ask(&Request::Detach(target.clone()), None)?.0
        else {
            return Err(MISPLACED);
        };
        Ok(was_mounted)
    }

    /// Names all mounted volumes, in order of pod uid and name.
    ///
    /// # Errors
    /// [`MounterError`].
    pub fn list(&self) -> Result<Vec<Target>, MounterError> {
        let mut volumes: Vec<Target> = Vec::new();
        loop {
            let after = volumes.last().cloned();
            let Answer::Volumes { page, more } = self.ask(&Request::List { after }, None)?.0 else {
                return Err(MISPLACED);
            };
            let empty = page.is_empty();
            volumes.extend(page);
            // Ascending pages come to an end; any others could go on for ever.
            if !volumes.is_sorted_by(|a, b| a < b) || (more && empty) {
                return Err(MessageError::Malformed("order of volumes").into());
            }
            if !more {
                return Ok(volumes);
            }
        }
    }

    /// Tells what the volume holds; one that is not mounted is `stat.mounted == false`.
    ///
    /// # Errors
    /// [`MounterError`].
    pub fn stat(&self, target: &Target) -> Result<VolumeState, MounterError> {
        let (answer, fd) = self.ask(&Request::Stat(target.clone()), None)?;
        let Answer::Stat(stat) = answer else {
            return Err(MISPLACED);
        };
        let metadata = fd.and_then(read_metadata);
        Ok(VolumeState { stat, metadata })
    }

    /// Sends a request and receives its answer; any failure but a refusal ends the connection.
    fn ask(
        &self,
        request: &Request,
        memfd: Option<&SealedGeneration>,
    ) -> Result<(Answer, Option<OwnedFd>), MounterError> {
        let mut held = self.link();
        let link = held.as_mut().ok_or(MounterError::NotConnected)?;
        match link.exchange(request, memfd) {
            Ok((answer, fd)) => Ok((answer.map_err(MounterError::Refused)?, fd)),
            Err(failure) => {
                packet::shut_down(&link.socket);
                *held = None;
                Err(failure)
            }
        }
    }

    fn link(&self) -> MutexGuard<'_, Option<Link>> {
        // A panic between send and receive would leave an answer behind: drop the connection then.
        self.link.lock().unwrap_or_else(|poisoned: PoisonError<_>| {
            let mut held = poisoned.into_inner();
            *held = None;
            held
        })
    }
}

impl Link {
    fn exchange(
        &mut self,
        request: &Request,
        memfd: Option<&SealedGeneration>,
    ) -> Result<(Result<Answer, Fault>, Option<OwnedFd>), MounterError> {
        self.last_id = self.last_id.wrapping_add(1);
        let fds: Vec<_> = memfd.iter().map(|memfd| memfd.as_fd()).collect();
        packet::send(
            self.socket.as_fd(),
            &request.encode(self.last_id),
            &fds,
            SendFlags::empty(),
        )
        .map_err(|source| MounterError::Lost {
            call: "sendmsg",
            source,
        })?;
        let mut packet = receive(&self.socket)?;
        let answer = request.decode_answer(self.last_id, packet.bytes())?;
        let fd = packet.fds.pop();
        let may_have_fd = matches!(&answer, Ok(Answer::Stat(stat)) if stat.generation.is_some());
        if !packet.fds.is_empty() || (fd.is_some() && !may_have_fd) {
            return Err(MessageError::Descriptors.into());
        }
        Ok((answer, fd))
    }
}

fn receive(socket: &OwnedFd) -> Result<Packet<ANSWER_BYTES>, MounterError> {
    match Packet::receive(socket.as_fd(), RecvFlags::empty()) {
        Ok(Some(packet)) => Ok(packet),
        Ok(None) => Err(MounterError::NotConnected),
        Err(source) => Err(MounterError::Lost {
            call: "recvmsg",
            source,
        }),
    }
}

/// The metadata of a volume; what is too long, or cannot be read, is none of ours.
fn read_metadata(fd: OwnedFd) -> Option<Vec<u8>> {
    let limit = MAX_METADATA_BYTES as u64;
    let mut metadata = Vec::new();
    File::from(fd)
        .take(limit + 1)
        .read_to_end(&mut metadata)
        .ok()?;
    (metadata.len() as u64 <= limit).then_some(metadata)
}
