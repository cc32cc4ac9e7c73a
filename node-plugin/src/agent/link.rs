//! The connection to the mounter, kept by one thread: it connects, hands the listeners on, waits for the end, and
//! connects again.

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use crate::ipc::{Hello, MounterClient};
use crate::telemetry::chain;

/// Between two tries. The mounter is started beside this process, or is being started again.
const PAUSE: Duration = Duration::from_millis(50);
/// The longest pause, after connections that ended at once.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// A connection that stood this long is followed by the first pause again.
const HEALTHY: Duration = Duration::from_secs(10);

/// What happened to the connection.
pub(super) enum Link {
    /// It stands, with the listeners of this mounter.
    Up(Hello),
    /// It has ended, and the listeners with it.
    Down,
}

/// Starts the thread. It ends with the process, or when nobody listens any more.
///
/// # Errors
/// When no thread can be started.
pub(super) fn keep(mounter: Arc<MounterClient>, out: mpsc::Sender<Link>) -> io::Result<()> {
    let run = move || {
        let mut told = false;
        let mut pause = PAUSE;
        loop {
            match mounter.connect() {
                Ok(hello) => {
                    told = false;
                    let begun = Instant::now();
                    if out.blocking_send(Link::Up(hello)).is_err() {
                        return;
                    }
                    mounter.wait_closed();
                    if out.blocking_send(Link::Down).is_err() {
                        return;
                    }
                    pause = if begun.elapsed() < HEALTHY {
                        LONGEST_PAUSE.min(pause * 2)
                    } else {
                        PAUSE
                    };
                }
                Err(error) => {
                    // Once: it is tried many times a second.
                    if !told {
                        let error = chain(&error);
                        tracing::info!(%error, "waiting for the mounter");
                        told = true;
                    }
                    if out.is_closed() {
                        return;
                    }
                    pause = PAUSE;
                }
            }
            thread::sleep(pause);
        }
    };
    thread::Builder::new()
        .name("mounter-link".to_owned())
        .spawn(run)
        .map(drop)
}
