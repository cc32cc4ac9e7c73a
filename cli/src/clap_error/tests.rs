//! What is said about command lines that are not understood.

use clap::Parser;

use super::*;

fn refused(words: &[&str]) -> String {
    let args: Vec<OsString> = std::iter::once("attache")
        .chain(words.iter().copied())
        .map(OsString::from)
        .collect();
    let error = Cli::try_parse_from(&args).expect_err("must be refused");
    match explain(&error, &args) {
        Refused::Failure(failure) => {
            assert_eq!(failure.exit, Exit::Usage, "{words:?}");
            failure.to_string()
        }
        Refused::Shown(text) => panic!("{text}"),
    }
}

const TO: &str = "local/shop/web/app";

#[test]
fn what_is_not_there_yet_is_refused_by_its_name() {
    for flag in [
        "--require=image=x",
        "--owner=1000:1000",
        "--until=2027-01-01",
        "--on-loss=wipe",
    ] {
        let shown = refused(&["grant", "add", "web-db", "payments/db", "--to", TO, flag]);
        let name = flag.split('=').next().unwrap();
        assert!(
            shown.starts_with(&format!("attache: {name} is not available yet\n  to do: ")),
            "{shown}"
        );
    }
    assert!(
        refused(&["grant", "remove", "web-db", "--wipe"]).contains("--wipe is not available yet")
    );
    assert!(
        refused(&["secret", "put", "payments/db", "a", "--stage"])
            .contains("--stage is not available yet")
    );
    assert!(
        refused(&["grant", "who", "payments/db"])
            .contains("attache grant who is not available yet")
    );
    assert!(refused(&["plan"]).contains("attache plan is not available yet"));
    assert!(
        refused(&["secret", "disable", "payments/db"])
            .contains("attache secret disable is not available yet")
    );
}

#[test]
fn slips_get_a_suggestion() {
    assert!(refused(&["secert", "list"]).contains("did you mean secret?"));
    assert!(refused(&["secret", "lsit"]).contains("did you mean list?"));
    assert!(
        refused(&["secret", "put", "a/b", "c", "--replcae"]).contains("did you mean --replace?")
    );
    assert!(refused(&["secret", "list", "--output", "jsn"]).contains("did you mean json?"));
    assert!(refused(&["secret"]).contains("one of: put, list"));
    assert!(refused(&[]).contains("one of: secret, keyspace"));
}

#[test]
fn nothing_that_a_user_typed_in_the_wrong_place_is_repeated() {
    let canary = "hunter2-canary";
    let lines: &[&[&str]] = &[
        &["secret", "put", "payments/db", "--pasword=hunter2-canary"],
        &["secret", "put", "payments/db", "-xhunter2-canary"],
        &["secret", "put", "payments/db hunter2-canary", "a"],
        &["secret", "list", "payments", "hunter2-canary"],
        &["secret", "hunter2-canary"],
        &["hunter2-canary"],
        &["secret", "put", "a/b", "c", "--replace=hunter2-canary"],
        &["secret", "list", "--output", "hunter2-canary"],
        &["completion", "hunter2-canary"],
        &["why", "hunter2-canary"],
        &["audit", "tail", "-n", "hunter2-canary"],
    ];
    for words in lines {
        let shown = refused(words);
        assert!(!shown.contains(canary), "{words:?}: {shown}");
    }
}

#[test]
fn help_and_version_are_answers() {
    for words in [["attache", "--help"], ["attache", "--version"]] {
        let args = words.map(OsString::from);
        let error = Cli::try_parse_from(&args).expect_err("help is an error to the parser");
        assert!(matches!(explain(&error, &args), Refused::Shown(text) if text.contains("attache")));
    }
}

/// What stands in the tables must not have come to be.
#[test]
fn the_tables_name_nothing_that_is_there() {
    let root = Cli::command();
    let at = |path: &str| {
        path.split_whitespace()
            .fold(&root, |at, name| at.find_subcommand(name).unwrap())
    };
    for (path, flag, _) in FLAGS {
        assert!(
            at(path)
                .get_arguments()
                .all(|arg| arg.get_long() != flag.strip_prefix("--")),
            "{path} {flag}"
        );
    }
    for (path, verbs) in VERBS {
        assert!(
            verbs
                .iter()
                .all(|verb| at(path).find_subcommand(verb).is_none()),
            "{path}"
        );
    }
}
