//! The program itself: what it prints where, and its exit codes, as far as no broker is needed.

#![expect(clippy::unwrap_used, reason = "a test that meets the unexpected fails")]

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, tcgetattr};

fn attache(config: &Path, words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_attache"))
        .args(words)
        .env_clear()
        .env("ATTACHE_CONFIG", config)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn ends(config: &Path, words: &[&str], code: i32) -> (String, String) {
    let output = attache(config, words);
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(
        output.status.code(),
        Some(code),
        "attache {words:?}\n{out}{err}"
    );
    (out, err)
}

#[test]
fn answers_go_to_standard_output_and_the_rest_to_standard_error() {
    let dir = tempfile::tempdir().unwrap();
    let none = dir.path().join("config.toml");
    for words in [
        &["--help"][..],
        &["--version"],
        &["secret", "put", "--help"],
        &["completion", "bash"],
        &["completion", "fish"],
    ] {
        let (out, err) = ends(&none, words, 0);
        assert!(
            out.contains("attache") && err.is_empty(),
            "{words:?}: {err}"
        );
    }
    let (out, err) = ends(&none, &["secret", "list"], 7);
    assert!(
        out.is_empty()
            && err.starts_with("attache: not signed in")
            && err.contains("to do: sign in first"),
        "{err}"
    );
    let (out, err) = ends(&none, &["completion", "bash", "--output", "json"], 0);
    assert!(out.starts_with('{') && err.is_empty());
}

#[test]
fn usage_is_2_and_a_bad_settings_file_is_1() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.toml");
    for words in [
        &[][..],
        &["secret"],
        &["secret", "show", "payments"],
        &["nonesuch"],
        &["grant", "add", "a", "b/c", "--to", "l/s/w/a", "--require=x"],
    ] {
        let (out, err) = ends(&file, words, 2);
        assert!(
            out.is_empty() && err.starts_with("attache: "),
            "{words:?}: {err}"
        );
    }
    std::fs::write(&file, "curent = \"x\"").unwrap();
    let (_, err) = ends(&file, &["status"], 1);
    assert!(err.contains("did you mean current?"), "{err}");
    std::fs::write(&file, "").unwrap();
    ends(&file, &["status"], 7);
}

#[test]
fn nobody_is_asked_where_nobody_is() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.toml");
    for words in [
        &["grant", "remove", "web-db"][..],
        &["cluster", "remove", "local"],
        &["node", "ban", "local/node-a"],
        &["operator", "ban", "eve"],
    ] {
        let (_, err) = ends(&file, words, 2);
        assert!(err.contains("--yes"), "{words:?}: {err}");
        // With the answer given it goes on, to the sign-in that is not there.
        ends(&file, &[words, &["--yes"]].concat(), 7);
        ends(&file, &[words, &["--dry-run"]].concat(), 7);
    }
    let (_, err) = ends(&file, &["secret", "put", "payments/db", "password"], 2);
    assert!(err.contains("password=@PATH or password=-"), "{err}");
}

/// Whatever is typed at the question for a value, nothing of it is shown, and the terminal is then as it was.
#[test]
fn a_question_for_a_value_leaves_the_terminal_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    for (typed, code, says) in [
        ("hunter2\u{3}", 130, "was not read: interrupted"),
        ("hunter2\n", 7, "not signed in"),
        ("hunter2\u{15}\n", 2, "is empty"),
    ] {
        let mut terminal: File = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY)
            .unwrap()
            .into();
        grantpt(&terminal).unwrap();
        unlockpt(&terminal).unwrap();
        let name = ptsname(&terminal, Vec::new()).unwrap();
        let own = File::options()
            .read(true)
            .write(true)
            .open(name.to_str().unwrap())
            .unwrap();
        let before = tcgetattr(&own).unwrap();
        assert!(before.local_modes.contains(LocalModes::ECHO));
        let mut attache = Command::new("setsid")
            .args(["--ctty", "--wait", env!("CARGO_BIN_EXE_attache")])
            .args(["secret", "put", "payments/db", "password"])
            .env("ATTACHE_CONFIG", dir.path().join("config.toml"))
            .stdin(own.try_clone().unwrap())
            .stdout(own.try_clone().unwrap())
            .stderr(own.try_clone().unwrap())
            .spawn()
            .unwrap();
        let mut shown = String::new();
        let mut bytes = [0; 4096];
        while !shown.contains("password: ") {
            let count = terminal.read(&mut bytes).unwrap();
            shown.push_str(std::str::from_utf8(&bytes[..count]).unwrap());
        }
        terminal.write_all(typed.as_bytes()).unwrap();
        assert_eq!(attache.wait().unwrap().code(), Some(code), "{shown}");
        let after = tcgetattr(&own).unwrap();
        assert_eq!(
            (after.local_modes, after.input_modes, after.output_modes),
            (before.local_modes, before.input_modes, before.output_modes),
            "{typed:?}"
        );
        let count = terminal.read(&mut bytes).unwrap();
        shown.push_str(std::str::from_utf8(&bytes[..count]).unwrap());
        assert!(shown.contains(says), "{typed:?}: {shown}");
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}

#[test]
fn a_value_on_the_command_line_is_refused_and_repeated_nowhere() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.toml");
    for words in [
        &["secret", "put", "payments/db", "password=hunter2"][..],
        &["secret", "put", "payments/db", "--password=hunter2"],
        &["secret", "put", "payments/db#hunter2", "password"],
        &["secret", "put", "payments/db", "--literal", "hunter2!"],
    ] {
        let (out, err) = ends(&file, words, 2);
        assert!(
            !out.contains("hunter2") && !err.contains("hunter2"),
            "{words:?}: {err}"
        );
    }
    // A value that is read and warned about, on its way to a broker that is not there.
    let (out, err) = ends(
        &file,
        &[
            "secret",
            "put",
            "payments/db",
            "--literal",
            "password=hunter2\n",
        ],
        7,
    );
    assert!(
        err.contains("--trim-newline") && !err.contains("hunter2") && out.is_empty(),
        "{err}"
    );
}

#[test]
fn the_variable_that_names_a_context_is_checked() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.toml");
    let output = Command::new(env!("CARGO_BIN_EXE_attache"))
        .arg("status")
        .env_clear()
        .env("ATTACHE_CONFIG", &file)
        .env("ATTACHE_CONTEXT", "a/b")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("ATTACHE_CONTEXT"));
}
