//! The program itself: what it prints where, and its exit codes, as far as no broker is needed.

#![expect(clippy::unwrap_used, reason = "a test that meets the unexpected fails")]

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Termios, tcgetattr};

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

/// A program that has asked for a value on a terminal of its own.
struct Asked {
    terminal: File,
    own: File,
    before: Termios,
    attache: Child,
    shown: String,
}

impl Asked {
    fn new() -> Self {
        let terminal: File = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY)
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
        // No child of ours leads its group, so setsid does not fork: the process is attache itself.
        // Whoever started the tests may ignore signals, as nohup does: attache does not.
        let attache = Command::new("env")
            .args(["--default-signal=HUP,INT,QUIT,TERM", "setsid"])
            .args(["--ctty", "--wait", env!("CARGO_BIN_EXE_attache")])
            .args(["secret", "put", "payments/db", "password"])
            .env("ATTACHE_CONFIG", "/nonexistent/config.toml")
            .stdin(own.try_clone().unwrap())
            .stdout(own.try_clone().unwrap())
            .stderr(own.try_clone().unwrap())
            .spawn()
            .unwrap();
        let mut asked = Self {
            terminal,
            own,
            before,
            attache,
            shown: String::new(),
        };
        while !asked.shown.contains("password: ") {
            asked.look();
        }
        let silent = tcgetattr(&asked.own).unwrap();
        assert!(!silent.local_modes.contains(LocalModes::ECHO));
        asked
    }

    fn look(&mut self) {
        let mut bytes = [0; 4096];
        let count = self.terminal.read(&mut bytes).unwrap();
        let text = std::str::from_utf8(bytes.get(..count).unwrap()).unwrap();
        self.shown.push_str(text);
    }

    /// How the program ends; its terminal must then be as it was, and show nothing of what was typed.
    fn ended(&mut self) -> ExitStatus {
        let status = self.attache.wait().unwrap();
        let after = tcgetattr(&self.own).unwrap();
        assert_eq!(
            (after.local_modes, after.input_modes, after.output_modes),
            (
                self.before.local_modes,
                self.before.input_modes,
                self.before.output_modes
            ),
            "{status}"
        );
        self.look();
        assert!(!self.shown.contains("hunter2"), "{}", self.shown);
        status
    }
}

/// Whatever is typed at the question for a value, nothing of it is shown, and the terminal is then as it was.
#[test]
fn a_question_for_a_value_leaves_the_terminal_as_it_was() {
    for (typed, code, says) in [
        ("hunter2\u{3}", 130, "was not read: interrupted"),
        ("hunter2\n", 7, "not signed in"),
        ("hunter2\u{15}\n", 2, "is empty"),
    ] {
        let mut asked = Asked::new();
        asked.terminal.write_all(typed.as_bytes()).unwrap();
        let status = asked.ended();
        assert_eq!(status.code(), Some(code), "{}", asked.shown);
        assert!(asked.shown.contains(says), "{typed:?}: {}", asked.shown);
    }
}

/// The process still ends by the signal, as its sender expects, but not before the terminal has its echo again.
#[test]
fn a_signal_at_the_question_leaves_the_terminal_as_it_was() {
    for signal in [Signal::TERM, Signal::HUP, Signal::INT, Signal::QUIT] {
        let mut asked = Asked::new();
        asked.terminal.write_all(b"hunter2").unwrap();
        kill_process(Pid::from_child(&asked.attache), signal).unwrap();
        assert_eq!(asked.ended().signal(), Some(signal.as_raw()));
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
