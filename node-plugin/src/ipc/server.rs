//! The mounter's end: the connection of the agent.
//!
//! It never blocks on the agent: an answer that does not fit in the socket's buffer at once ends the connection.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, SocketFlags, accept_with};
use thiserror::Error;

use super::codec::encode_hello;
use super::message::{Answer, Facts, Fault, MessageError, REQUEST_BYTES, Request};
use super::packet::{self, Packet};

/// Why a connection was refused, or has ended.
#[derive(Debug, Error)]
pub enum ConnectionError {
    /// The agent closed it.
    #[error("the agent closed the connection")]
    Closed,
    /// Somebody else's process.
    #[error("a process of uid {found} connected, the agent is {expected}")]
    WrongPeer {
        /// The agent's uid.
        expected: u32,
        /// That of the process which connected.
        found: u32,
    },
    /// A system call failed.
    #[error("{call} failed")]
    Os {
        /// The system call.
        call: &'static str,
        /// What the kernel said.
        source: Errno,
    },
    /// The agent does not keep to the protocol.
    #[error("the agent sent what is no request")]
    Protocol(#[from] MessageError),
}

/// The agent's connection.
#[derive(Debug)]
pub struct Connection {
    socket: OwnedFd,
}

/// A request, to be answered once.
#[derive(Debug)]
pub struct Received {
    id: u32,
    /// What is asked for.
    pub request: Request,
    /// The memory file of a write.
    pub memfd: Option<OwnedFd>,
}

impl Connection {
    /// Accepts the next connection at `listener`, checks that its uid is the agent's, and says hello with the CSI
    /// and the registration listener.
    ///
    /// # Errors
    /// [`ConnectionError::WrongPeer`]; [`ConnectionError::Os`].
    pub fn accept(
        listener: BorrowedFd<'_>,
        agent_uid: u32,
        facts: Facts,
        listeners: [BorrowedFd<'_>; 2],
    ) -> Result<Self, ConnectionError> {
        let failed = |call| move |source| ConnectionError::Os { call, source };
        let socket = accept_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)
            .map_err(failed("accept"))?;
        let found = packet::peer_uid(socket.as_fd()).map_err(failed("SO_PEERCRED"))?;
        if found != agent_uid {
            return Err(ConnectionError::WrongPeer {
                expected: agent_uid,
                found,
            });
        }
        packet::send(
            socket.as_fd(),
            &encode_hello(facts),
            &listeners,
            SendFlags::DONTWAIT,
        )
        .map_err(failed("sendmsg"))?;
        Ok(Self { socket })
    }

    /// Receives the next request; `None` when there is none yet.
    ///
    /// # Errors
    /// [`ConnectionError`]; the connection is then of no more use.
    pub fn receive(&self) -> Result<Option<Received>, ConnectionError> {
        let packet =
            match Packet::<REQUEST_BYTES>::receive(self.socket.as_fd(), RecvFlags::DONTWAIT) {
                Ok(Some(packet)) => packet,
                Ok(None) => return Err(ConnectionError::Closed),
                Err(Errno::AGAIN) => return Ok(None),
                Err(source) => {
                    return Err(ConnectionError::Os {
                        call: "recvmsg",
                        source,
                    });
                }
            };
        let (id, request) = Request::decode(packet.bytes())?;
        let mut fds = packet.fds;
        let memfd = fds.pop();
        let wanted = matches!(request, Request::Write { .. });
        if !fds.is_empty() || memfd.is_some() != wanted {
            return Err(MessageError::Descriptors.into());
        }
        Ok(Some(Received { id, request, memfd }))
    }

    /// Answers a request; `metadata` is the `.attache.json` that a stat found.
    ///
    /// # Errors
    /// [`ConnectionError::Os`]; the connection is then of no more use.
    pub fn answer(
        &self,
        to: &Received,
        answer: &Result<Answer, Fault>,
        metadata: Option<BorrowedFd<'_>>,
    ) -> Result<(), ConnectionError> {
        let bytes = to.request.encode_answer(to.id, answer);
        packet::send(
            self.socket.as_fd(),
            &bytes,
            metadata.as_slice(),
            SendFlags::DONTWAIT,
        )
        .map_err(|source| ConnectionError::Os {
            call: "sendmsg",
            source,
        })
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
