//! Faults under the programs: a damaged store, a newer one, another key, two brokers at once, full disks, huge input, floods of connections. Each
//! is a clear error, never a panic, and nothing is lost.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a helper of a test says what is wrong by panicking"
)]

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use attache_tests::process::{bin, run};

mod disk;
mod flood;
mod size;
mod store;

/// Runs a command of the broker to its end, which must come.
fn broker(words: &[&str], config: &Path) -> Output {
    let mut command = Command::new("timeout");
    command.args(["-s", "KILL", "60"]);
    command.arg(bin("attache-broker").unwrap()).args(words);
    let output = run(command.arg("--config").arg(config)).unwrap();
    let code = output.status.code();
    assert!(
        code.is_some_and(|code| code < 128),
        "{words:?} has not ended: {code:?}"
    );
    output
}

/// What a command printed.
fn said(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// Copies a folder and what is in it.
fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}
