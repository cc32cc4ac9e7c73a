//! One message, with its descriptors, over a connected SOCK_SEQPACKET socket; and the peer's uid.
//!
//! It must never hand out a message that was cut, or keep a descriptor that came with too many others.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

/// Most descriptors of one message.
const MAX_FDS: usize = 2;

/// The uid of the process at the other end, at the time it connected or listened.
///
/// Only the uid: the pid of a process in another PID namespace reads 0, which is why rustix, whose pids are never
/// 0, cannot be asked here.
pub(super) fn peer_uid(socket: BorrowedFd<'_>) -> Result<u32, Errno> {
    nix::sys::socket::getsockopt(&socket, nix::sys::socket::sockopt::PeerCredentials)
        .map(|peer| peer.uid())
        .map_err(|errno| Errno::from_raw_os_error(errno as i32))
}

/// Sends `bytes` and `fds` as one message. Never raises SIGPIPE.
pub(super) fn send(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    fds: &[BorrowedFd<'_>],
    flags: SendFlags,
) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(Errno::INVAL);
    }
    let flags = flags | SendFlags::NOSIGNAL;
    let sent =
        rustix::io::retry_on_intr(|| sendmsg(socket, &[IoSlice::new(bytes)], &mut control, flags))?;
    if sent == bytes.len() {
        Ok(())
    } else {
        Err(Errno::MSGSIZE)
    }
}

/// A received message.
pub(super) struct Packet<const SIZE: usize> {
    bytes: [u8; SIZE],
    len: usize,
    pub(super) fds: Vec<OwnedFd>,
}

impl<const SIZE: usize> Packet<SIZE> {
    /// Receives the next message of at most `SIZE` bytes; `None` at the end of the connection.
    ///
    /// # Errors
    /// EMSGSIZE for a message that is longer or that carries more than two descriptors.
    pub(super) fn receive(socket: BorrowedFd<'_>, flags: RecvFlags) -> Result<Option<Self>, Errno> {
        let mut bytes = [0; SIZE];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = flags | RecvFlags::CMSG_CLOEXEC;
        let message = rustix::io::retry_on_intr(|| {
            recvmsg(
                socket,
                &mut [IoSliceMut::new(&mut bytes)],
                &mut control,
                flags,
            )
        })?;
        let mut fds = Vec::new();
        for part in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = part {
                fds.extend(rights);
            }
        }
        if message
            .flags
            .intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC)
        {
            return Err(Errno::MSGSIZE);
        }
        // Every message of ours has bytes: nothing at all is the end.
        Ok((message.bytes != 0).then_some(Self {
            bytes,
            len: message.bytes,
            fds,
        }))
    }

    pub(super) fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

/// Makes a socket of the kind that both ends use.
pub(super) fn socket() -> Result<OwnedFd, Errno> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
    socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
}

/// Ends a connection for everyone who holds a duplicate of it.
pub(super) fn shut_down(socket: &OwnedFd) {
    // It may have ended already, which is all that is wanted.
    let _ended = rustix::net::shutdown(socket.as_fd(), rustix::net::Shutdown::Both);
}
