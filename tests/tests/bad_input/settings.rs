//! Keys of the settings files: every key that a program declares, through the program itself.
//!
//! A file is refused whole, before anything is opened, with the key and the mend and never with a value.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs,
    path::Path,
    process::{Command, Output},
};

use attache_settings::{Fallback, Key, Kind, Schema};
use attache_tests::process::{bin, run};

use crate::kinds::CANARY;

/// A program with a settings file.
struct Program {
    name: &'static str,
    /// What makes it read the file and little else.
    words: &'static [&'static str],
    keys: Vec<Declared>,
    /// A file that is accepted, by key.
    good: BTreeMap<&'static str, String>,
    /// What it says of a file that it does not take, and how it ends then.
    refused: (&'static str, i32),
}

/// A key: what it takes, and whether a file may be without it.
#[derive(Clone, Copy)]
struct Declared {
    path: &'static str,
    takes: Takes,
    required: bool,
}

#[derive(Clone, Copy)]
enum Takes {
    /// Any text.
    Text,
    /// Text of some form, which one word is not.
    Form,
    Number {
        min: i64,
        max: i64,
    },
    Flag,
}

impl Program {
    /// What it says of a file.
    fn reads(&self, file: &Path) -> (bool, String) {
        let mut command = Command::new(bin(self.name).unwrap());
        command
            .args(self.words)
            .env("ATTACHE_CONFIG", file)
            .env("NO_COLOR", "1");
        if self.words.contains(&"check-config") {
            command.arg("--config").arg(file);
        }
        let output = run(&mut command).unwrap();
        let said = said(&output);
        let (words, code) = self.refused;
        let refused = said.contains(words);
        if refused {
            assert_eq!(output.status.code(), Some(code), "{said}");
        }
        (refused, said)
    }

    fn text(&self, changed: &[(&'static str, Option<String>)]) -> String {
        let mut keys = self.good.clone();
        for (path, value) in changed {
            match value {
                Some(value) => keys.insert(path, value.clone()),
                None => keys.remove(path),
            };
        }
        render(&keys)
    }
}

/// A file in which each key stands in its section.
fn render(keys: &BTreeMap<&'static str, String>) -> String {
    let mut sections: BTreeMap<&str, String> = BTreeMap::new();
    for (path, value) in keys {
        let (section, name) = path.rsplit_once('.').unwrap_or(("", path));
        let line = format!("{name} = {value}\n");
        sections.entry(section).or_default().push_str(&line);
    }
    let section = |(name, lines): (&str, String)| match name {
        "" => lines,
        name => format!("[{name}]\n{lines}"),
    };
    sections.into_iter().map(section).collect()
}

fn said(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

fn declared(schema: &Schema) -> Vec<Declared> {
    let takes = |key: &Key| match key.kind {
        Kind::Text => Takes::Text,
        Kind::Path | Kind::Address | Kind::Endpoint | Kind::OneOf(_) => Takes::Form,
        Kind::Integer { min, max } => Takes::Number { min, max },
        Kind::Flag => Takes::Flag,
    };
    let key = |key: &Key| Declared {
        path: key.path,
        takes: takes(key),
        required: key.fallback == Fallback::Required,
    };
    schema.keys.iter().map(key).collect()
}

fn quoted(text: &str) -> String {
    format!("\"{text}\"")
}

fn programs() -> [Program; 3] {
    let broker = [
        ("name", "broker-0"),
        ("trust_domain", "attache.test"),
        // One of the two is needed.
        ("keys.slot_file", "/etc/attache/slot.key"),
        ("keys.passphrase_file", "/etc/attache/passphrase"),
    ];
    let node = [
        ("broker.address", "127.0.0.1:7443"),
        ("broker.enroll_address", "127.0.0.1:7444"),
        ("node.node_name", "node-a"),
    ];
    let context = [
        ("current", "default"),
        ("contexts.default.address", "127.0.0.1:1"),
        (
            "contexts.default.broker",
            "spiffe://attache.test/broker/broker-0",
        ),
        ("contexts.default.enroll", "127.0.0.1:2"),
        ("contexts.default.operator", "ada"),
        ("contexts.default.trust_bundle", "absent.pem"),
        ("contexts.default.certificate", "absent.crt"),
        ("contexts.default.key", "absent.key"),
        ("contexts.default.renew_until", "2100-01-01T00:00:00Z"),
    ];
    let good = |keys: &[(&'static str, &str)]| {
        keys.iter()
            .map(|(path, text)| (*path, quoted(text)))
            .collect()
    };
    let cli = |(path, _): &(&'static str, &str)| Declared {
        path,
        // A path may be any text; a name has a form, which an address is not of.
        takes: match path.rsplit('.').next() {
            Some("trust_bundle" | "certificate" | "key") => Takes::Text,
            _ => Takes::Form,
        },
        required: !matches!(
            path.rsplit('.').next(),
            Some("current" | "enroll" | "operator" | "renew_until")
        ),
    };
    [
        Program {
            name: "attache-broker",
            words: &["check-config"],
            keys: declared(&attache_broker::config::SCHEMA),
            good: good(&broker),
            refused: ("attache-broker: ", 1),
        },
        Program {
            name: "attache-node-plugin",
            words: &["check-config"],
            keys: declared(&attache_node_plugin::config::SCHEMA),
            good: good(&node),
            refused: ("attache-node-plugin: ", 1),
        },
        Program {
            name: "attache",
            words: &["status"],
            keys: context.iter().map(cli).collect(),
            good: good(&context),
            refused: ("is refused: ", 1),
        },
    ]
}

/// The bad values of a key by kind, as TOML; or why there are none.
fn bad(key: &Declared) -> Vec<(&'static str, Result<String, &'static str>)> {
    let long = quoted(&format!("/{}", CANARY.repeat(400)));
    let number = matches!(key.takes, Takes::Number { .. } | Takes::Flag);
    let beyond = match key.takes {
        Takes::Number { max, .. } => Ok((max + 1).to_string()),
        Takes::Flag => Err("true and false have one length"),
        Takes::Text | Takes::Form => Ok(long),
    };
    let below = match key.takes {
        Takes::Number { min, .. } => Ok((min - 1).to_string()),
        Takes::Text | Takes::Form | Takes::Flag => Err("it is no number"),
    };
    let form = match key.takes {
        Takes::Text => Err("any text is one"),
        Takes::Form => Ok(quoted(&format!("{CANARY}/ {CANARY}"))),
        Takes::Number { .. } | Takes::Flag => Ok(quoted(CANARY)),
    };
    let nul = if number {
        Err("it is no text")
    } else {
        Ok(quoted(&format!("/{CANARY}\\u0000")))
    };
    vec![
        ("empty", Ok(quoted(""))),
        ("too long", beyond),
        ("too small", below),
        (
            "another type",
            Ok(if number { quoted("1") } else { "1".to_owned() }),
        ),
        ("a list", Ok(format!("[\"{CANARY}\"]"))),
        ("a section", Ok(format!("{{ a = \"{CANARY}\" }}"))),
        ("of no such form", form),
        ("NUL", nul),
    ]
}

#[test]
fn bad_keys_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("settings.toml");
    let (mut wrong, mut tried) = (Vec::new(), 0);
    for program in programs() {
        let mut check = |what: &str, text: Vec<u8>, named: &[&str]| {
            fs::write(&file, text).unwrap();
            tried += 1;
            let (refused, said) = program.reads(&file);
            let missing = named.iter().find(|name| !said.contains(**name));
            if !refused || missing.is_some() || said.contains(CANARY) || said.len() > 1000 {
                wrong.push(format!(
                    "{} {what}: refused {refused}, not named {missing:?}: {said}",
                    program.name
                ));
            }
        };
        for key in &program.keys {
            for (kind, value) in bad(key) {
                match value {
                    Ok(value) => {
                        let text = program.text(&[(key.path, Some(value))]);
                        check(&format!("{} {kind}", key.path), text.into(), &[key.path]);
                    }
                    Err(reason) => assert!(!reason.is_empty()),
                }
            }
            if key.required {
                let text = program.text(&[(key.path, None)]);
                check(
                    &format!("{} missing", key.path),
                    text.into(),
                    &[key.path, "missing"],
                );
            }
            // One letter more: the nearest key is the one that was meant.
            let near: &'static str = format!("{}x", key.path).leak();
            let text = program.text(&[(near, Some(quoted(CANARY)))]);
            let name = key.path.rsplit('.').next().unwrap();
            check(
                &format!("{near} unknown"),
                text.into(),
                &[near, "did you mean", name],
            );
            // The file is refused whole: what is no text has no keys.
            let mut text = program.text(&[(key.path, None)]).into_bytes();
            text.extend_from_slice(b"\n# \xff\n");
            check(&format!("{} non-UTF-8", key.path), text, &["not UTF-8"]);
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {tried} are wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    println!("{tried} bad files");
}

/// The control: what is not refused above is refused for nothing else.
#[test]
fn good_keys_are_accepted_and_optional_ones_may_be_missing() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("settings.toml");
    for program in programs() {
        let optional = program
            .keys
            .iter()
            .filter(|key| !key.required)
            .map(|key| vec![(key.path, None)]);
        for changed in std::iter::once(vec![]).chain(optional) {
            fs::write(&file, program.text(&changed)).unwrap();
            let (refused, said) = program.reads(&file);
            assert!(!refused, "{} {changed:?}: {said}", program.name);
        }
    }
}

/// The list of the CLI's keys is the one that it writes and reads.
#[test]
fn the_clis_keys_are_those_of_the_list() {
    let [.., cli] = programs();
    let mut listed: Vec<&str> = cli
        .keys
        .iter()
        .filter_map(|key| key.path.strip_prefix("contexts.default."))
        .collect();
    let mut declared = attache_cli::context::KEYS.to_vec();
    listed.sort_unstable();
    declared.sort_unstable();
    assert_eq!(listed, declared);
    assert!(cli.keys.iter().any(|key| key.path == "current"));
}

/// Whatever lies in the file's place, nobody waits for it.
#[test]
fn a_file_that_is_none_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let fifo = folder.path().join("fifo");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &fifo,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    let large = folder.path().join("large");
    fs::write(&large, "# a comment\n".repeat(40_000)).unwrap();
    let syntax = folder.path().join("syntax");
    fs::write(&syntax, format!("name = {CANARY}")).unwrap();
    let empty = folder.path().join("empty");
    fs::write(&empty, "").unwrap();
    for program in programs() {
        for file in [folder.path(), &fifo, &large, &syntax] {
            let (refused, said) = program.reads(file);
            let named = said.contains(&OsString::from(file).into_string().unwrap());
            assert!(
                refused && named && !said.contains(CANARY),
                "{} {}: {said}",
                program.name,
                file.display()
            );
        }
        // Nothing is required of the CLI's file but a sign-in; the others lack what is required.
        let (refused, said) = program.reads(&empty);
        assert_eq!(
            refused,
            program.name != "attache",
            "{}: {said}",
            program.name
        );
        let (refused, said) = program.reads(&folder.path().join("absent"));
        assert_eq!(
            refused,
            program.name != "attache",
            "{}: {said}",
            program.name
        );
    }
}
