//! Connections on kubelet's sockets, from the listeners that the mounter bound.
//!
//! The listeners come and go with the mounter; the servers and the connections that stand do not. Only a process of
//! uid 0 is heard ([`unix(7)`](https://man7.org/linux/man-pages/man7/unix.7.html), SO_PEERCRED): anyone else is closed
//! at once, before a byte is read.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener as StdListener;
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Kubelet's uid.
const ROOT: u32 = 0;
/// How long the loop rests after the system could not accept, for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// One accept loop; it ends when this is dropped.
pub struct Acceptor {
    task: JoinHandle<()>,
}

impl Acceptor {
    /// Accepts at `listener` and hands root's connections to `out`.
    ///
    /// # Errors
    /// When the descriptor is no listening unix socket that can be waited for.
    pub fn start(
        name: &'static str,
        listener: OwnedFd,
        out: mpsc::Sender<io::Result<UnixStream>>,
    ) -> io::Result<Self> {
        let listener = StdListener::from(listener);
        listener.set_nonblocking(true)?;
        let listener = UnixListener::from_std(listener)?;
        Ok(Self {
            task: tokio::spawn(accept_all(name, listener, out)),
        })
    }
}

impl Drop for Acceptor {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept_all(
    name: &'static str,
    listener: UnixListener,
    out: mpsc::Sender<io::Result<UnixStream>>,
) {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::error!(socket = name, %error, "cannot accept; trying again");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        match stream.peer_cred() {
            Ok(peer) if peer.uid() == ROOT => {
                if out.send(Ok(stream)).await.is_err() {
                    return;
                }
            }
            Ok(peer) => {
                tracing::warn!(
                    socket = name,
                    uid = peer.uid(),
                    pid = peer.pid(),
                    "refused: only root may call"
                );
            }
            Err(error) => {
                tracing::warn!(socket = name, %error, "refused: the caller's uid cannot be told")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt;
    use std::process::Command;

    use super::*;

    #[tokio::test]
    async fn only_root_is_heard() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: needs root to become somebody else");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let listener = StdListener::bind(&path).unwrap();
        let mode = |path: &std::path::Path, mode| {
            std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode))
                .unwrap();
        };
        // Open to all, so that nothing but the peer's uid can be what refuses.
        mode(folder.path(), 0o777);
        mode(&path, 0o777);
        let (out, mut heard) = mpsc::channel(4);
        let _acceptor = Acceptor::start("test", listener.into(), out).unwrap();
        let connect = format!(
            "import socket; s=socket.socket(socket.AF_UNIX); s.connect({path:?}); s.settimeout(5); print(len(s.recv(1)))"
        );
        let stranger = tokio::task::spawn_blocking(move || {
            Command::new("python3")
                .args(["-c", &connect])
                .uid(1000)
                .gid(1000)
                .output()
        });
        let stranger = stranger.await.unwrap().unwrap();
        assert_eq!(
            String::from_utf8_lossy(&stranger.stdout).trim(),
            "0",
            "closed at once: {stranger:?}"
        );
        assert!(heard.try_recv().is_err());
        let _root = UnixStream::connect(&path).await.unwrap();
        heard.recv().await.unwrap().unwrap();
    }
}
