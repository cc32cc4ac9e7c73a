//! Questions to a person: a value without echo, and a name to be typed before something is taken away.
//!
//! Nothing here waits for an answer that nobody can give: without a terminal each question is an error that names the
//! flag which answers it.

use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};

use rpassword::ConfigBuilder;
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
/// [`Exit::Usage`] without a terminal or for an empty answer; [`Exit::Interrupted`] for Ctrl-C.
pub fn ask_value(field: &str) -> Result<Zeroizing<Vec<u8>>, Failure> {
    if !io::stdin().is_terminal() {
        return Err(Failure::usage(format!(
            "the value of {field} cannot be asked for: standard input is no terminal"
        ))
        .mend(format!("give it as {field}=@PATH or {field}=-")));
    }
    let failed = || format!("the value of {field} was not read");
    let answer = read_silently(&format!("{field}: ")).map_err(|error| {
        let interrupted = error.get_ref().is_some_and(|source| source.is::<CtrlC>());
        let exit = if interrupted {
            Exit::Interrupted
        } else {
            Exit::Failed
        };
        Failure::new(exit, failed()).caused_by(&error)
    })?;
    if answer.is_empty() {
        return Err(Failure::usage(format!("the value of {field} is empty"))
            .mend(format!("if that is meant, write --literal {field}=")));
    }
    Ok(Zeroizing::new(answer.into_bytes()))
}

/// Reads a line of the terminal without echo. Whatever ends that, the terminal is then as it was.
fn read_silently(prompt: &str) -> io::Result<String> {
    let mut silent = Silent::new()?;
    silent.terminal.write_all(prompt.as_bytes())?;
    let keys = Keys(silent.terminal.try_clone()?);
    let config = ConfigBuilder::new().input_reader(keys).output_discard();
    rpassword::read_password_with_config(config.build())
}

/// The terminal without echo, line by line no more, and with keys in place of signals: a signal would end the process
/// before it could put the echo back.
struct Silent {
    terminal: File,
    before: Termios,
}

impl Silent {
    fn new() -> io::Result<Self> {
        let terminal = File::options().read(true).write(true).open("/dev/tty")?;
        let before = tcgetattr(&terminal)?;
        let mut modes = before.clone();
        let off = LocalModes::ECHO | LocalModes::ECHONL | LocalModes::ICANON | LocalModes::ISIG;
        modes.local_modes.remove(off);
        modes.special_codes[SpecialCodeIndex::VMIN] = 1;
        modes.special_codes[SpecialCodeIndex::VTIME] = 0;
        tcsetattr(&terminal, OptionalActions::Flush, &modes)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        // What was pasted after the line's end is no command of the shell's: it is thrown away.
        let _restored = tcsetattr(&self.terminal, OptionalActions::Flush, &self.before);
        let _ended = self.terminal.write_all(b"\n");
    }
}

/// What is typed; Ctrl-C is an error.
struct Keys(File);

#[derive(Debug, Error)]
#[error("interrupted")]
struct CtrlC;

impl Read for Keys {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let count = self.0.read(bytes)?;
        match bytes.get(..count) {
            Some(keys) if keys.contains(&3) => Err(io::Error::other(CtrlC)),
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
