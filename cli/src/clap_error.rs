//! What is wrong with a command line, said in our words.
//!
//! The parser's own sentences repeat the words that it did not understand, and one of them may be a secret in the wrong
//! place; so they are built anew here, from the kind of the error and the names of our own arguments. What the reference
//! promises and this version does not have yet is refused by its name.

use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, Error, ErrorKind};
use clap::{Command, CommandFactory};

use crate::args::Cli;
use crate::failure::{Exit, Failure};
use crate::near::nearest;

/// How a command line was not carried out.
#[derive(Debug, PartialEq, Eq)]
pub enum Refused {
    /// Help or version, which was asked for.
    Shown(String),
    /// Something is wrong.
    Failure(Failure),
}

/// Flags of later versions: the command, the flag, and what to do instead.
const FLAGS: &[(&str, &str, &str)] = &[
    (
        "secret put",
        "--stage",
        "a put makes the new version active at once; leave it out",
    ),
    (
        "grant add",
        "--require",
        "leave it out: the guard rails hold for every grant",
    ),
    (
        "grant add",
        "--owner",
        "leave it out: files belong to the container's own runAsUser",
    ),
    (
        "grant add",
        "--until",
        "leave it out, and remove the grant when its time is over: attache grant remove NAME",
    ),
    (
        "grant add",
        "--on-loss",
        "leave it out: what is mounted stays until the pod ends",
    ),
    (
        "grant remove",
        "--wipe",
        "leave it out, and delete the pod: its mount goes with it",
    ),
];

/// Verbs of later versions, below their noun; a noun of its own stands with an empty path.
const VERBS: &[(&str, &[&str])] = &[
    (
        "secret",
        &[
            "generate", "activate", "disable", "enable", "import", "export",
        ],
    ),
    ("grant", &["who"]),
    ("guardrail", &["add", "show", "remove"]),
    ("node", &["quarantine", "release"]),
    ("audit", &["search", "export", "exposure"]),
    ("slot add", &["pkcs11"]),
    ("", &["role", "delivery", "plan", "apply", "run", "dev"]),
];

/// Says what is wrong with a command line.
#[must_use]
pub fn explain(error: &Error, args: &[OsString]) -> Refused {
    if matches!(
        error.kind(),
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
    ) {
        return Refused::Shown(error.to_string());
    }
    let path = command_path(args);
    let mut failure = match error.kind() {
        ErrorKind::UnknownArgument => unknown_argument(error, &path),
        ErrorKind::InvalidSubcommand => unknown_verb(error, &path),
        ErrorKind::ValueValidation => bad_value(error),
        ErrorKind::InvalidValue => not_one_of(error),
        ErrorKind::MissingRequiredArgument => missing(error),
        ErrorKind::ArgumentConflict => conflict(error),
        ErrorKind::MissingSubcommand | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            no_verb(&path)
        }
        ErrorKind::InvalidUtf8 => Failure::usage("an argument is not UTF-8"),
        ErrorKind::TooManyValues
        | ErrorKind::TooFewValues
        | ErrorKind::WrongNumberOfValues
        | ErrorKind::NoEquals => {
            let argument = argument(error);
            if error.kind() == ErrorKind::TooManyValues {
                Failure::usage(format!("{argument} takes no value"))
            } else {
                Failure::usage(format!("{argument} has the wrong number of values"))
            }
        }
        // The rest needs features of the parser that are not used, and kinds of later versions.
        ErrorKind::DisplayHelp
        | ErrorKind::DisplayVersion
        | ErrorKind::Io
        | ErrorKind::Format
        | _ => Failure::usage("the command line is not understood"),
    };
    failure.exit = Exit::Usage;
    if failure.mend.is_none() {
        let command = if path.is_empty() {
            "attache".to_owned()
        } else {
            format!("attache {path}")
        };
        failure = failure.mend(format!("see {command} --help"));
    }
    Refused::Failure(failure)
}

/// The nouns and verbs that the words name, as far as they go.
fn command_path(args: &[OsString]) -> String {
    let root = Cli::command();
    let mut at: &Command = &root;
    let mut path: Vec<&str> = Vec::new();
    for word in args.iter().skip(1) {
        if let Some(found) = at.find_subcommand(word) {
            at = found;
            path.push(found.get_name());
        }
    }
    path.join(" ")
}

fn unknown_argument(error: &Error, path: &str) -> Failure {
    let word = text(error, ContextKind::InvalidArg).unwrap_or_default();
    // `--flag=value`: the value is nobody's business.
    let flag = word.split('=').next().unwrap_or_default();
    let known = FLAGS
        .iter()
        .find(|(command, name, _)| *command == path && *name == flag);
    if let Some((_, name, instead)) = known {
        return Failure::usage(format!("{name} is not available yet")).mend(*instead);
    }
    if !flag.starts_with("--")
        || flag.len() > 40
        || !flag.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
    {
        return Failure::usage(if flag.starts_with('-') {
            "there is an unknown flag"
        } else {
            "there is a word too many"
        });
    }
    let unknown = Failure::usage(format!("unknown flag {flag}"));
    match text(error, ContextKind::SuggestedArg) {
        Some(near) => unknown.mend(format!(
            "did you mean {}?",
            near.split('=').next().unwrap_or_default()
        )),
        None => unknown,
    }
}

fn unknown_verb(error: &Error, path: &str) -> Failure {
    let word = text(error, ContextKind::InvalidSubcommand).unwrap_or_default();
    let later = VERBS
        .iter()
        .find(|(noun, _)| *noun == path)
        .and_then(|(_, verbs)| verbs.iter().find(|verb| **verb == word));
    if let Some(verb) = later {
        let full = if path.is_empty() {
            (*verb).to_owned()
        } else {
            format!("{path} {verb}")
        };
        return Failure::usage(format!("attache {full} is not available yet"));
    }
    let root = Cli::command();
    let at = path
        .split_whitespace()
        .try_fold(&root, |at, name| at.find_subcommand(name))
        .unwrap_or(&root);
    let what = if path.is_empty() {
        "unknown command".to_owned()
    } else {
        format!("unknown verb of attache {path}")
    };
    let names: Vec<&str> = at.get_subcommands().map(Command::get_name).collect();
    match nearest(&word, names.iter().copied()) {
        Some(near) => Failure::usage(what).mend(format!("did you mean {near}?")),
        None => Failure::usage(what).mend(format!("there are: {}", names.join(", "))),
    }
}

fn no_verb(path: &str) -> Failure {
    let root = Cli::command();
    let at = path
        .split_whitespace()
        .try_fold(&root, |at, name| at.find_subcommand(name))
        .unwrap_or(&root);
    let names: Vec<&str> = at.get_subcommands().map(Command::get_name).collect();
    Failure::usage("a word is missing").mend(format!("one of: {}", names.join(", ")))
}

fn bad_value(error: &Error) -> Failure {
    let what = Failure::usage(format!("{} is refused", argument(error)));
    match std::error::Error::source(error) {
        // Only our own parsers give a source, and they repeat nothing.
        Some(source) => what.because(source.to_string()),
        None => what,
    }
}

fn not_one_of(error: &Error) -> Failure {
    let argument = argument(error);
    match error.get(ContextKind::ValidValue) {
        Some(ContextValue::Strings(words)) if !words.is_empty() => {
            let wrong = Failure::usage(format!("{argument} must be one of: {}", words.join(", ")));
            match text(error, ContextKind::SuggestedValue) {
                Some(near) => wrong.mend(format!("did you mean {near}?")),
                None => wrong,
            }
        }
        _ => Failure::usage(format!("{argument} needs a value")),
    }
}

fn missing(error: &Error) -> Failure {
    match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::Strings(names)) => {
            Failure::usage(format!("missing: {}", names.join(" ")))
        }
        _ => Failure::usage("an argument is missing"),
    }
}

fn conflict(error: &Error) -> Failure {
    let argument = argument(error);
    match error.get(ContextKind::PriorArg) {
        Some(ContextValue::String(prior)) if *prior == argument => {
            Failure::usage(format!("{argument} is given twice"))
        }
        Some(ContextValue::String(prior)) => {
            Failure::usage(format!("{argument} does not go with {prior}"))
        }
        Some(ContextValue::Strings(priors)) => {
            Failure::usage(format!("{argument} does not go with {}", priors.join(", ")))
        }
        _ => Failure::usage(format!("{argument} does not go with the rest")),
    }
}

/// The argument as the help shows it: for these kinds of error it is one of ours, never a user's word.
fn argument(error: &Error) -> String {
    text(error, ContextKind::InvalidArg).unwrap_or_else(|| "an argument".to_owned())
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "only texts are wanted of a list that may grow"
)]
fn text(error: &Error, kind: ContextKind) -> Option<String> {
    match error.get(kind)? {
        ContextValue::String(text) => Some(text.clone()),
        ContextValue::Strings(texts) => texts.first().cloned(),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
