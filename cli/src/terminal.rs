//! Questions to a person: a value without echo, and a name to be typed before something is taken away.
//!
//! Nothing here waits for an answer that nobody can give: without a terminal each question is an error that names the
//! flag which answers it.

use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::{AsFd, OwnedFd};

use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rpassword::ConfigBuilder;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::retry_on_intr;
use rustix::termios::{
    LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr,
};
use thiserror::Error;
use zeroize::Zeroizing;

use crate::args::Yes;
use crate::failure::{Exit, Failure};

/// Asks for a field's value without echo.
///
/// # Errors
/// [`Exit::Usage`] without a terminal or for an empty answer; [`Exit::Interrupted`] for Ctrl-C. A signal that ends the
/// process does so, once the terminal is as it was.
pub fn ask_value(field: &str) -> Result<Zeroizing<Vec<u8>>, Failure> {
    if !io::stdin().is_terminal() {
        return Err(Failure::usage(format!(
            "the value of {field} cannot be asked for: standard input is no terminal"
        ))
        .mend(format!("give it as {field}=@PATH or {field}=-")));
    }
    let failed = format!("the value of {field} was not read");
    let answer = ask_silently(&format!("{field}: "), failed)?;
    if answer.is_empty() {
        return Err(Failure::usage(format!("the value of {field} is empty"))
            .mend(format!("if that is meant, write --literal {field}=")));
    }
    Ok(answer)
}

/// Asks for a passphrase without echo; twice when it is a new one.
///
/// # Errors
/// [`Exit::Usage`] without a terminal, or when the second answer is another; [`Exit::Interrupted`] for Ctrl-C.
pub fn ask_passphrase(new: bool) -> Result<Zeroizing<Vec<u8>>, Failure> {
    if !io::stdin().is_terminal() {
        return Err(Failure::usage(
            "the passphrase cannot be asked for: standard input is no terminal",
        )
        .mend("name a file that holds it: --passphrase-file FILE"));
    }
    let ask = |prompt| ask_silently(prompt, "the passphrase was not read".to_owned());
    let passphrase = ask("passphrase: ")?;
    if new && *ask("again: ")? != *passphrase {
        return Err(Failure::usage("the two passphrases differ"));
    }
    Ok(passphrase)
}

fn ask_silently(prompt: &str, failed: String) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let answer = read_silently(prompt).map_err(|error| {
        let interrupted = error
            .get_ref()
            .is_some_and(|source| source.is::<Interrupted>());
        let exit = if interrupted {
            Exit::Interrupted
        } else {
            Exit::Failed
        };
        Failure::new(exit, failed).caused_by(&error)
    })?;
    Ok(Zeroizing::new(answer.into_bytes()))
}

/// Reads a line of the terminal without echo. Whatever ends that, the terminal is then as it was.
fn read_silently(prompt: &str) -> io::Result<String> {
    let mut silent = Silent::new()?;
    silent.terminal.write_all(prompt.as_bytes())?;
    let keys = Keys {
        terminal: silent.terminal.try_clone()?,
        told: silent.held.told.as_fd().try_clone_to_owned()?,
    };
    let config = ConfigBuilder::new().input_reader(keys).output_discard();
    rpassword::read_password_with_config(config.build())
}

/// The terminal without echo, line by line no more, and with keys in place of signals.
struct Silent {
    terminal: File,
    before: Termios,
    /// Let go after the terminal is as it was.
    held: HeldSignals,
}

impl Silent {
    fn new() -> io::Result<Self> {
        let terminal = File::options().read(true).write(true).open("/dev/tty")?;
        let before = tcgetattr(&terminal)?;
        let held = HeldSignals::new()?;
        let mut modes = before.clone();
        let off = LocalModes::ECHO | LocalModes::ECHONL | LocalModes::ICANON | LocalModes::ISIG;
        modes.local_modes.remove(off);
        modes.special_codes[SpecialCodeIndex::VMIN] = 1;
        modes.special_codes[SpecialCodeIndex::VTIME] = 0;
        tcsetattr(&terminal, OptionalActions::Flush, &modes)?;
        Ok(Self {
            terminal,
            before,
            held,
        })
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        // What was pasted after the line's end is no command of the shell's: it is thrown away.
        let _restored = tcsetattr(&self.terminal, OptionalActions::Flush, &self.before);
        let _ended = self.terminal.write_all(b"\n");
    }
}

/// The signals that would end the process before it could put the echo back: they wait while this lives, and then do
/// what they do. Holds them for its thread, the only one there is while a question is asked.
struct HeldSignals {
    /// Readable while one waits; never read, so that it goes on waiting.
    told: SignalFd,
    before: SigSet,
}

impl HeldSignals {
    fn new() -> io::Result<Self> {
        let ending = [
            Signal::SIGHUP,
            Signal::SIGINT,
            Signal::SIGQUIT,
            Signal::SIGTERM,
        ];
        let ending = SigSet::from_iter(ending);
        Ok(Self {
            told: SignalFd::with_flags(&ending, SfdFlags::SFD_CLOEXEC)?,
            before: ending.thread_swap_mask(SigmaskHow::SIG_BLOCK)?,
        })
    }
}

impl Drop for HeldSignals {
    fn drop(&mut self) {
        let _restored = self.before.thread_set_mask();
    }
}

/// What is typed; Ctrl-C and a signal that waits are errors.
struct Keys {
    terminal: File,
    told: OwnedFd,
}

#[derive(Debug, Error)]
#[error("interrupted")]
struct Interrupted;

impl Read for Keys {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let mut awaited = [
            PollFd::new(&self.told, PollFlags::IN),
            PollFd::new(&self.terminal, PollFlags::IN),
        ];
        retry_on_intr(|| poll(&mut awaited, None))?;
        let [told, _] = &awaited;
        if !told.revents().is_empty() {
            return Err(io::Error::other(Interrupted));
        }
        let count = self.terminal.read(bytes)?;
        match bytes.get(..count) {
            Some(keys) if keys.contains(&3) => Err(io::Error::other(Interrupted)),
            _ => Ok(count),
        }
    }
}

/// Has the name typed of what is about to be taken away.
///
/// # Errors
/// [`Exit::Usage`] without a terminal, [`Exit::Failed`] when something else is typed.
pub fn confirm(what_happens: &str, name: &str, yes: Yes) -> Result<(), Failure> {
    if yes.yes {
        return Ok(());
    }
    if !io::stdin().is_terminal() {
        return Err(Failure::usage(format!(
            "{what_happens}, and nobody can be asked: standard input is no terminal"
        ))
        .mend("add --yes if that is meant"));
    }
    let failed =
        |error: io::Error| Failure::new(Exit::Failed, "the answer was not read").caused_by(&error);
    let mut err = io::stderr().lock();
    write!(err, "{what_happens}.\nType {name} to go on: ")
        .and_then(|()| err.flush())
        .map_err(failed)?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer).map_err(failed)?;
    if answer.trim_end_matches(['\n', '\r']) == name {
        Ok(())
    } else {
        Err(Failure::new(Exit::Failed, "nothing was changed").because("another name was typed"))
    }
}
