//! Whether the agent is ready, told on a unix socket to its own user: for probes that run beside it.
//!
//! Kubelet's Probe says the same, on a socket that only root reaches. Whoever connects here is told in one line, and
//! nothing of theirs is read: a connection takes a moment of the agent's and nothing else.

use std::fs;
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::UnixListener;
use tokio::sync::watch;

const READY: &str = "ready";
const NOT_READY: &str = "not ready";
/// How long an agent may take to answer.
const PATIENCE: Duration = Duration::from_secs(4);
/// How long the loop rests after the system could not accept, for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Binds the socket, 0600, in place of a stale one; anything else of its name is left alone.
///
/// # Errors
/// The system's.
pub(super) fn bind(path: &Path) -> io::Result<UnixListener> {
    let stale = fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
    if stale {
        fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Tells whoever connects, for ever.
pub(super) async fn tell(listener: UnixListener, ready: watch::Receiver<bool>) {
    loop {
        let Ok((mut stream, _)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let word = if *ready.borrow() { READY } else { NOT_READY };
        // Less than a socket's buffer: it never waits for who asked, and who has gone need not be told.
        let _told = stream.write_all(word.as_bytes()).await;
    }
}

/// Asks the agent whose socket this is.
///
/// # Errors
/// When nobody answers; [`ErrorKind::InvalidData`] when it is not an agent.
pub fn ask(path: &Path) -> io::Result<bool> {
    let stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut word = String::new();
    stream.take(64).read_to_string(&mut word)?;
    match word.as_str() {
        READY => Ok(true),
        NOT_READY => Ok(false),
        _ => Err(ErrorKind::InvalidData.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn whoever_asks_hears_the_present_state_and_a_stale_socket_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("health.sock");
        assert!(ask(&path).is_err());
        drop(bind(&path).unwrap());
        assert!(ask(&path).is_err(), "nobody listens at a stale socket");
        let listener = bind(&path).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let (ready, told) = watch::channel(false);
        tokio::spawn(tell(listener, told));
        for state in [false, true, false] {
            ready.send_replace(state);
            assert_eq!(ask(&path).unwrap(), state);
        }
    }

    #[tokio::test]
    async fn what_is_no_socket_is_not_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "somebody's").unwrap();
        assert_eq!(bind(&path).unwrap_err().kind(), ErrorKind::AddrInUse);
        assert_eq!(fs::read(&path).unwrap(), b"somebody's");
    }
}
