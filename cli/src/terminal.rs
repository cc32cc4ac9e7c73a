//! Questions to a person: a value without echo, and a name to be typed before something is taken away.
//!
//! Nothing here waits for an answer that nobody can give: without a terminal each question is an error that names the
//! flag which answers it.

use std::io::{self, IsTerminal, Write};

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
    let answer = rpassword::prompt_password(format!("{field}: ")).map_err(|error| {
        let interrupted = error.kind() == io::ErrorKind::Interrupted;
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
