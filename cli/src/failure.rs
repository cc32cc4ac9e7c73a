//! How a command ends: the exit codes, and what is said when it did not do what it was asked to.
//!
//! A [`Failure`] answers three questions (what, why, what to do) and ends with the request's id, by which the broker's
//! log and audit name the same request. It must never hold a value, a key or a token.

use std::fmt;
use std::process::ExitCode;

use crate::output::visible;

/// The exit codes: an API of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Done = 0,
    /// Failed.
    Failed = 1,
    /// The words of the command line, or an argument that the broker finds malformed.
    Usage = 2,
    /// Denied.
    Denied = 3,
    /// The broker, or what it needs, is away: try again.
    Unavailable = 4,
    /// A precondition does not hold, somebody was faster, or the object does not exist.
    Precondition = 5,
    /// Partly done.
    Partly = 6,
    /// Not signed in, or not any more.
    NotSignedIn = 7,
    /// A check ran and found something.
    Found = 8,
    /// Interrupted.
    Interrupted = 130,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// A command that did not do what it was asked to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The exit code.
    pub exit: Exit,
    /// What was not done.
    pub what: String,
    /// Why.
    pub why: Option<String>,
    /// What to do.
    pub mend: Option<String>,
    /// The request, where there was one.
    pub request: Option<String>,
}

impl Failure {
    /// Begins with what was not done.
    #[must_use]
    pub fn new(exit: Exit, what: impl Into<String>) -> Self {
        Self {
            exit,
            what: what.into(),
            why: None,
            mend: None,
            request: None,
        }
    }

    /// A wrong word on the command line.
    #[must_use]
    pub fn usage(what: impl Into<String>) -> Self {
        Self::new(Exit::Usage, what)
    }

    /// Says why.
    #[must_use]
    pub fn because(mut self, why: impl Into<String>) -> Self {
        self.why = Some(why.into());
        self
    }

    /// Says why with an error and its sources.
    #[must_use]
    pub fn caused_by(self, error: &(dyn std::error::Error + 'static)) -> Self {
        self.because(chain(error))
    }

    /// Says what to do.
    #[must_use]
    pub fn mend(mut self, mend: impl Into<String>) -> Self {
        self.mend = Some(mend.into());
        self
    }

    /// Names the request.
    #[must_use]
    pub fn of_request(mut self, request: impl ToString) -> Self {
        self.request = Some(request.to_string());
        self
    }
}

/// `attache: WHAT: WHY`, then `  to do: MEND`, then `  request: ID`, without a newline at the end. Control characters,
/// which may come from the broker, are shown escaped.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "attache: {}", visible(&self.what))?;
        if let Some(why) = &self.why {
            write!(f, ": {}", visible(why))?;
        }
        if let Some(mend) = &self.mend {
            write!(f, "\n  to do: {}", visible(mend))?;
        }
        if let Some(request) = &self.request {
            write!(f, "\n  request: {}", visible(request))?;
        }
        Ok(())
    }
}

impl std::error::Error for Failure {}

/// An error and its sources, one after the other. A source that only repeats the one before it is left out.
#[must_use]
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_request_comes_last_and_control_characters_are_shown() {
        let request = uuid::Uuid::from_u128(7);
        let failure = Failure::new(Exit::Precondition, "payments/db was not stored")
            .because("the head moved\u{1b}[2J")
            .mend("run the same command again")
            .of_request(request);
        assert_eq!(
            failure.to_string(),
            "attache: payments/db was not stored: the head moved\\u{1b}[2J\n  to do: run the same command again\n  request: \
             00000000-0000-0000-0000-000000000007"
        );
    }

    #[test]
    fn the_codes_are_those_of_the_page() {
        let codes = [
            Exit::Done,
            Exit::Failed,
            Exit::Usage,
            Exit::Denied,
            Exit::Unavailable,
            Exit::Precondition,
            Exit::Partly,
            Exit::NotSignedIn,
            Exit::Found,
            Exit::Interrupted,
        ];
        assert_eq!(
            codes.map(|code| code as u8),
            [0, 1, 2, 3, 4, 5, 6, 7, 8, 130]
        );
    }
}
