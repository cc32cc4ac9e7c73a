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
use std::os::unix::ffi::OsStringExt;

use attache_cli::args::{Cli, Command as Noun, secret::Secret};
use attache_cli::clap_error::{Refused, explain};
use attache_cli::failure::Exit;
use attache_cli::fields;
use clap::{Arg, ArgAction, Command, CommandFactory, Parser};

const VKEY: &str = "attache/01010101-0101-0101-0101-010101010101/02020202-0202-0202-0202-020202020202+b2b7e1c3+AeqdAWPU0h3ttzq6N81ELkS83J0dwfrhJwBmDRKuOw9l";

/// What one argument takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Secret,
    SecretVersion,
    SecretField,
    Keyspace,
    Grant,
    Cluster,
    NodeName,
    Node,
    Operator,
    Workload,
    Context,
    Number,
    Issuer,
    Audience,
    Reason,
    BrokerFolder,
    Address,
    BrokerId,
    Path,
    Vkey,
    Decision,
    Choice,
    Flag,
    Field,
    Literal,
}
use Kind::*;

/// One row an argument: the command ("" for every command), the argument's id, and what it takes.
const ROWS: &[(&str, &str, Kind)] = &[
    ("", "context", Context),
    ("", "output", Choice),
    ("", "no_color", Flag),
    ("", "quiet", Flag),
    ("secret put", "path", Secret),
    ("secret put", "fields", Field),
    ("secret put", "literal", Literal),
    ("secret put", "replace", Flag),
    ("secret put", "expect_version", Number),
    ("secret put", "trim_newline", Flag),
    ("secret put", "dry_run", Flag),
    ("secret list", "keyspace", Keyspace),
    ("secret show", "path", Secret),
    ("secret versions", "path", Secret),
    ("secret rollback", "reference", SecretVersion),
    ("secret rollback", "expect_version", Number),
    ("secret rollback", "dry_run", Flag),
    ("keyspace create", "name", Keyspace),
    ("keyspace create", "dry_run", Flag),
    ("grant add", "name", Grant),
    ("grant add", "reference", SecretField),
    ("grant add", "to", Workload),
    ("grant add", "dry_run", Flag),
    ("grant list", "keyspace", Keyspace),
    ("grant show", "name", Grant),
    ("grant remove", "name", Grant),
    ("grant remove", "dry_run", Flag),
    ("grant remove", "yes", Flag),
    ("cluster add", "name", Cluster),
    ("cluster add", "issuer", Issuer),
    ("cluster add", "audience", Audience),
    ("cluster add", "folder", BrokerFolder),
    ("cluster add", "dry_run", Flag),
    ("cluster show", "name", Cluster),
    ("cluster remove", "name", Cluster),
    ("cluster remove", "dry_run", Flag),
    ("cluster remove", "yes", Flag),
    ("node list", "cluster", Cluster),
    ("node join-token", "cluster", Cluster),
    ("node join-token", "node", NodeName),
    ("node join-token", "dry_run", Flag),
    ("node ban", "node", Node),
    ("node ban", "reason", Reason),
    ("node ban", "dry_run", Flag),
    ("node ban", "yes", Flag),
    ("node unban", "node", Node),
    ("node unban", "reason", Reason),
    ("node unban", "dry_run", Flag),
    ("operator ban", "name", Operator),
    ("operator ban", "reason", Reason),
    ("operator ban", "dry_run", Flag),
    ("operator ban", "yes", Flag),
    ("operator unban", "name", Operator),
    ("operator unban", "reason", Reason),
    ("operator unban", "dry_run", Flag),
    ("audit tail", "lines", Number),
    ("audit tail", "follow", Flag),
    ("audit verify", "dir", Path),
    ("audit verify", "vkey", Vkey),
    ("audit verify", "at_least", Path),
    ("audit verify", "save", Path),
    ("login", "new", Operator),
    ("login", "broker", Address),
    ("login", "broker_id", BrokerId),
    ("login", "trust_bundle", Path),
    ("login", "csr", Path),
    ("login", "finish", Path),
    ("why", "decision", Decision),
    ("completion", "shell", Choice),
];

/// The words without which a command is not whole, by argument id.
fn required(path: &str) -> Vec<(&'static str, &'static str)> {
    match path {
        "secret put" => vec![("path", "payments/db"), ("fields", "password")],
        "secret show" | "secret versions" => vec![("path", "payments/db")],
        "secret rollback" => vec![("reference", "payments/db")],
        "keyspace create" => vec![("name", "payments")],
        "grant add" => vec![
            ("name", "web-db"),
            ("reference", "payments/db"),
            ("to", "local/shop/web/app"),
        ],
        "grant show" | "grant remove" => vec![("name", "web-db")],
        "cluster add" => vec![
            ("name", "local"),
            ("issuer", "https://issuer.example"),
            ("audience", "attache"),
            ("folder", "/srv/cluster"),
        ],
        "cluster show" | "cluster remove" => vec![("name", "local")],
        "node join-token" => vec![("cluster", "local"), ("node", "node-a")],
        "node ban" | "node unban" => vec![("node", "local/node-a")],
        "operator ban" | "operator unban" => vec![("name", "ada")],
        "why" => vec![("decision", "7f3a9c12")],
        "completion" => vec![("shell", "bash")],
        _ => vec![],
    }
}

/// What must stand beside an argument for it to mean something.
fn beside(path: &str, id: &str) -> Vec<(&'static str, &'static str)> {
    match (path, id) {
        ("audit verify", "dir") => vec![("vkey", VKEY)],
        ("login", "new" | "broker" | "broker_id" | "trust_bundle" | "csr") => vec![
            ("new", "ada"),
            ("broker", "127.0.0.1:7443"),
            ("broker_id", "spiffe://example/broker/broker-0"),
            ("trust_bundle", "bundle.pem"),
            ("csr", "ada.csr"),
        ],
        _ => required(path),
    }
}

/// An input, or why there is none of this kind.
enum Input {
    Bad(OsString),
    None(&'static str),
}
use Input::{Bad, None as NoInput};

fn bad(text: &str) -> Input {
    Bad(text.into())
}

fn good(kind: Kind, id: &str) -> &'static str {
    match kind {
        Secret | SecretVersion => "payments/eu/db",
        SecretField => "payments/db#password",
        Keyspace => "payments",
        Grant | Cluster => "a-name.1",
        NodeName => "node-a.example",
        Node => "spiffe://example/node/local/5a0c1de0",
        Operator => "ada",
        Workload => "@prod/shop/web/app",
        Context => "default",
        Number => "3",
        Issuer => "https://issuer.example",
        Audience => "attache",
        Reason => "stolen, and found again",
        BrokerFolder => "/srv/cluster",
        Address => "[::1]:7443",
        BrokerId => "spiffe://example/broker/broker-0",
        Path => "some/file",
        Vkey => VKEY,
        Decision => "7f3a9c12",
        Choice if id == "output" => "json",
        Choice => "zsh",
        Flag => "",
        Field => "password=@/file",
        Literal => "password=a value",
    }
}

/// The five kinds of bad input for an argument, each with its name. Missing and unknown are tests of their own.
fn inputs(kind: Kind) -> Vec<(&'static str, Input)> {
    let long = "a".repeat(5000);
    let empty = match kind {
        Literal => bad("=value"),
        _ => bad(""),
    };
    let too_long = match kind {
        Literal | Field => bad(&format!("{long}=@x")),
        Issuer => bad(&format!("https://{long}")),
        BrokerFolder => bad(&format!("/{long}")),
        Secret | SecretVersion | SecretField => bad(&format!("payments/{long}")),
        Workload => bad(&format!("local/shop/web/{long}")),
        Node => bad(&format!("local/{long}")),
        Address => bad(&format!("{long}:7443")),
        BrokerId => bad(&format!("spiffe://example/broker/{long}")),
        Vkey => bad(&format!("{VKEY}{long}")),
        Number => bad(&"9".repeat(40)),
        _ => bad(&long),
    };
    let wrong_type = match kind {
        Secret => bad("payments/db@3"),
        SecretVersion => bad("payments/db@x"),
        SecretField => bad("payments/db@3#x"),
        Keyspace | Grant | Cluster => bad("Not A Name"),
        NodeName => bad("Node_A"),
        Node => bad("spiffe://example/operator/ada"),
        Operator | Context => bad("a/b"),
        Workload => bad("local/shop/web"),
        Number => bad("-1"),
        Issuer => bad("issuer.example"),
        Audience | Reason => NoInput("any text is one"),
        BrokerFolder => bad("relative/folder"),
        Address => bad("127.0.0.1"),
        BrokerId => bad("spiffe://example/operator/ada"),
        Path => NoInput("any bytes are a path"),
        Vkey => bad("attache/x+00000000+AAAA"),
        Decision => bad("7F3A9C12"),
        Choice => bad("nonesuch"),
        Flag => bad("yes"),
        Field => bad("password=value"),
        Literal => bad("password"),
    };
    let non_utf8 = match kind {
        Path => NoInput("a path may be in any encoding"),
        Literal | Field => Bad(OsString::from_vec(b"f\xff=@x".to_vec())),
        _ => Bad(OsString::from_vec(vec![b'a', 0xff])),
    };
    let nul = match kind {
        Literal | Field => bad("f\0=@x"),
        Issuer => bad("https://a\0b"),
        BrokerFolder => bad("/a\0b"),
        _ => bad("a\0b"),
    };
    vec![
        ("empty", empty),
        ("too long", too_long),
        ("wrong type", wrong_type),
        ("non-UTF-8", non_utf8),
        ("NUL", nul),
    ]
}

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
                let mut word = OsString::from(format!("--{name}="));
                word.push(value);
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
    // What `login --new` needs beside it.
    let login = all.iter().find(|(path, _)| path == "login").unwrap().1;
    let base = beside("login", "new");
    for (id, _) in &base {
        let rest: Vec<_> = base
            .iter()
            .filter(|(other, _)| other != id)
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
