//! The independent decoder of `tests/independent`, as a program.

use std::{
    path::Path,
    process::{Command, Output},
    sync::{Mutex, PoisonError},
};

use anyhow::{Result, ensure};

use crate::process::run;

/// Whether it is set up, which takes a moment each time.
static READY: Mutex<bool> = Mutex::new(false);

/// Opens a whole backup with a slot's key file, or with enough of its shares: on standard output what it holds, as JSON.
///
/// # Errors
/// When the decoder cannot be set up, or not be run.
pub fn open_backup(backup: &Path, secrets: &[impl AsRef<Path>]) -> Result<Output> {
    let independent = Path::new(env!("CARGO_MANIFEST_DIR")).join("independent");
    let mut ready = READY.lock().unwrap_or_else(PoisonError::into_inner);
    if !*ready {
        let set_up = run(&mut Command::new(independent.join("run.sh")))?;
        ensure!(set_up.status.success(), "{set_up:?}");
        *ready = true;
    }
    drop(ready);
    let mut command = Command::new(independent.join(".venv/bin/python"));
    command.arg("-B").arg(independent.join("open_backup.py"));
    command.arg(backup);
    run(command.args(secrets.iter().map(AsRef::as_ref)))
}
