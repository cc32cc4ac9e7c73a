//! `attache completion`.

use clap::CommandFactory;

use crate::args::{Cli, Completion};
use crate::failure::{Exit, Failure};
use crate::output::{Human, Report};

/// Answers the completions of a shell, to be sourced.
///
/// # Errors
/// [`Exit::Failed`] when they are not text, which is a defect.
pub fn completion(args: &Completion) -> Result<Report, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "attache", &mut script);
    let script = String::from_utf8(script)
        .map_err(|error| Failure::new(Exit::Failed, "no completions").caused_by(&error))?;
    let data = serde_json::json!({ "shell": args.shell.to_string(), "script": script });
    Report::new(&data, Vec::new(), Human::Script(script))
}
