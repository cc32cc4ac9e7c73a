//! Every argument of every command against every kind of bad input.
//!
//! The test walks the clap tree: an argument without a row here fails it, and so does a row without an argument. What a
//! kind of argument accepts of these inputs has a written reason.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::wildcard_enum_match_arm,
    reason = "a test that meets the unexpected fails"
)]

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};

use attache_cli::args::{Cli, Command as Noun, secret::Secret};
use attache_cli::clap_error::{Refused, explain};
use attache_cli::failure::Exit;
use attache_cli::fields;
use clap::{Arg, ArgAction, Command, CommandFactory, Parser};
use rows::Input::{Bad, None as NoInput};
use rows::Kind::{Choice, Field, Flag};
use rows::{GIVEN, ROWS, beside, good, inputs, required};

mod rows;

/// The commands that carry something out, with their paths.
fn leaves<'c>(command: &'c Command, path: &str, out: &mut Vec<(String, &'c Command)>) {
    if !command.has_subcommands() {
        out.push((path.to_owned(), command));
    }
    for sub in command.get_subcommands() {
        leaves(sub, format!("{path} {}", sub.get_name()).trim(), out);
    }
}

fn tree() -> Command {
    let mut root = Cli::command();
    root.build();
    root
}

fn own(arg: &Arg) -> bool {
    !matches!(
        arg.get_action(),
        ArgAction::Help | ArgAction::HelpShort | ArgAction::HelpLong | ArgAction::Version
    )
}

/// A command line of these arguments: options as `--name=value`, then `--`, then the rest in its order.
fn line(command: &Command, path: &str, values: &[(&str, &OsStr)]) -> Vec<OsString> {
    let mut line: Vec<OsString> = std::iter::once("attache")
        .chain(path.split_whitespace())
        .map(OsString::from)
        .collect();
    let mut positional: Vec<(usize, &OsStr)> = Vec::new();
    for (id, value) in values {
        let arg = command
            .get_arguments()
            .find(|arg| arg.get_id() == id)
            .unwrap_or_else(|| panic!("{path}: no argument {id}"));
        match arg.get_index() {
            Some(index) => positional.push((index, value)),
            None => {
                let name = arg.get_long().unwrap();
                let mut word = OsString::from(format!("--{name}"));
                if *value != GIVEN {
                    word.push("=");
                    word.push(value);
                }
                line.push(word);
            }
        }
    }
    positional.sort_unstable_by_key(|(index, _)| *index);
    line.push("--".into());
    line.extend(positional.into_iter().map(|(_, value)| value.to_owned()));
    line
}

/// What is said about a command line that is refused, by the parser or by the fields of a put.
fn refusal(line: &[OsString]) -> Option<(Exit, String)> {
    let failure = match Cli::try_parse_from(line) {
        Err(error) => match explain(&error, line) {
            Refused::Failure(failure) => failure,
            Refused::Shown(text) => panic!("help was shown: {text}"),
        },
        Ok(Cli {
            command: Noun::Secret(Secret::Put(put)),
            ..
        }) => fields::parse(&put.fields, &put.literal).err()?,
        Ok(_) => return None,
    };
    Some((failure.exit, failure.to_string()))
}

fn with<'v>(
    base: &'v [(&'static str, &'static str)],
    id: &'v str,
    value: &'v OsStr,
) -> Vec<(&'v str, &'v OsStr)> {
    let rest = base
        .iter()
        .filter(|(other, _)| *other != id)
        .map(|(other, value)| (*other, OsStr::new(*value)));
    rest.chain([(id, value)]).collect()
}

#[test]
fn the_tree_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn every_argument_has_a_row_and_every_row_an_argument() {
    let root = tree();
    let mut all = Vec::new();
    leaves(&root, "", &mut all);
    let mut found = BTreeSet::new();
    for (path, command) in &all {
        for arg in command.get_arguments().filter(|arg| own(arg)) {
            let global = arg.is_global_set();
            found.insert((
                if global { String::new() } else { path.clone() },
                arg.get_id().to_string(),
            ));
        }
    }
    let rows: BTreeSet<_> = ROWS
        .iter()
        .map(|(path, id, _)| ((*path).to_owned(), (*id).to_owned()))
        .collect();
    assert_eq!(rows.len(), ROWS.len(), "a row is there twice");
    assert_eq!(
        found.difference(&rows).collect::<Vec<_>>(),
        Vec::<&(String, String)>::new(),
        "arguments without a row"
    );
    assert_eq!(
        rows.difference(&found).collect::<Vec<_>>(),
        Vec::<&(String, String)>::new(),
        "rows without an argument"
    );
}

#[test]
fn bad_input_is_refused_by_name_and_never_repeated() {
    let root = tree();
    let mut all = Vec::new();
    leaves(&root, "", &mut all);
    for (path, command) in &all {
        for (of, id, kind) in ROWS.iter().filter(|(of, ..)| of.is_empty() || of == path) {
            let base = beside(path, id);
            let arg = command
                .get_arguments()
                .find(|arg| arg.get_id() == id)
                .unwrap();
            let named = arg.get_long().map_or_else(
                || arg.get_value_names().unwrap()[0].to_string(),
                |long| format!("--{long}"),
            );
            for (what, input) in inputs(*kind) {
                let value = match input {
                    Bad(value) => value,
                    NoInput(reason) => {
                        assert!(!reason.is_empty());
                        continue;
                    }
                };
                let words = line(command, path, &with(&base, id, &value));
                let (exit, shown) = refusal(&words)
                    .unwrap_or_else(|| panic!("attache {path}: {id}: {what} was accepted"));
                assert_eq!(exit, Exit::Usage, "{path} {id} {what}");
                // The library's choices do not say which argument was not UTF-8.
                let anonymous = *kind == Choice && what == "non-UTF-8";
                // A field that could be read is named itself.
                let named = if *kind == Field && what == "wrong type" {
                    "password"
                } else {
                    &named
                };
                assert!(
                    anonymous || shown.contains(named),
                    "attache {path}: {id}: {what}: {named} is not named: {shown}"
                );
                assert!(
                    !shown.contains("aaaaaaaa") && !shown.contains('\0') && shown.len() < 1000,
                    "{path} {id} {what}: {shown}"
                );
            }
            if of.is_empty() || *kind == Flag {
                continue;
            }
            let words = line(command, path, &with(&base, id, OsStr::new(good(*kind, id))));
            assert_eq!(
                refusal(&words),
                None,
                "attache {path}: {id}: the good input was refused"
            );
        }
    }
}

#[test]
fn what_is_missing_or_unknown_is_named() {
    let root = tree();
    let mut all = Vec::new();
    leaves(&root, "", &mut all);
    for (path, command) in &all {
        let base = required(path);
        let whole: Vec<(&str, &OsStr)> = base
            .iter()
            .map(|(id, value)| (*id, OsStr::new(*value)))
            .collect();
        assert_eq!(
            refusal(&line(command, path, &whole)),
            None,
            "attache {path}"
        );
        for (id, _) in &base {
            let rest: Vec<_> = whole
                .iter()
                .filter(|(other, _)| other != id)
                .copied()
                .collect();
            let (exit, shown) = refusal(&line(command, path, &rest))
                .unwrap_or_else(|| panic!("attache {path}: {id} may be missing"));
            assert_eq!(exit, Exit::Usage, "{path} {id}: {shown}");
        }
        let mut unknown = line(command, path, &whole);
        unknown.insert(1 + path.split_whitespace().count(), "--no-such-flag".into());
        let (exit, shown) = refusal(&unknown).unwrap();
        assert!(
            exit == Exit::Usage && shown.contains("unknown flag --no-such-flag"),
            "{path}: {shown}"
        );
        let takes_more = command
            .get_positionals()
            .any(|arg| matches!(arg.get_action(), ArgAction::Append));
        let optional = command.get_positionals().any(|arg| !arg.is_required_set());
        if !takes_more && !optional {
            let mut more = line(command, path, &whole);
            more.push("one-word-more".into());
            assert!(
                refusal(&more).unwrap().1.contains("a word too many"),
                "{path}"
            );
        }
    }
    // `login --new` and its request need each other; a context that is there knows the rest.
    let login = all.iter().find(|(path, _)| path == "login").unwrap().1;
    let base = beside("login", "new");
    for id in ["new", "csr"] {
        let rest: Vec<_> = base
            .iter()
            .filter(|(other, _)| *other != id)
            .map(|(id, value)| (*id, OsStr::new(*value)))
            .collect();
        assert!(
            refusal(&line(login, "login", &rest)).is_some(),
            "login without {id}"
        );
    }
    let verify = all
        .iter()
        .find(|(path, _)| path == "audit verify")
        .unwrap()
        .1;
    assert!(
        refusal(&line(verify, "audit verify", &[("dir", OsStr::new("d"))]))
            .unwrap()
            .1
            .contains("--vkey")
    );
    let both = [("finish", OsStr::new("f")), ("new", OsStr::new("ada"))];
    assert!(refusal(&line(login, "login", &both)).is_some());
}

#[test]
fn help_describes_every_argument() {
    let root = tree();
    let mut all = Vec::new();
    leaves(&root, "", &mut all);
    for (path, command) in all {
        assert!(command.get_about().is_some(), "{path}");
        for arg in command.get_arguments() {
            assert!(arg.get_help().is_some(), "{path} {}", arg.get_id());
        }
    }
}

#[test]
fn the_page_names_every_command() {
    let page = include_str!("../../../docs/cli.md");
    let root = tree();
    let mut all = Vec::new();
    leaves(&root, "", &mut all);
    for (path, _) in all {
        assert!(
            page.contains(&format!("`{path}`")),
            "docs/cli.md does not name {path}"
        );
    }
}
