//! What waiting signals tell a process without a runtime: to end, or to read its settings again.

use nix::sys::signal::Signal;
use nix::sys::signalfd::SignalFd;

/// What a process is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Told {
    /// By SIGTERM or SIGINT.
    End,
    /// By SIGHUP.
    Reload,
}

/// Reads all that wait; the end counts before anything else. Others, SIGCHLD among them, tell nothing here.
pub(super) fn told(signals: &SignalFd) -> Option<Told> {
    let mut told = None;
    while let Ok(Some(info)) = signals.read_signal() {
        let signal = i32::try_from(info.ssi_signo)
            .ok()
            .and_then(|number| Signal::try_from(number).ok());
        match signal {
            Some(Signal::SIGTERM | Signal::SIGINT) => told = Some(Told::End),
            Some(Signal::SIGHUP) => told = told.or(Some(Told::Reload)),
            _ => {}
        }
    }
    told
}
