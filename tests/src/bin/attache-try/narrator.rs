//! What is printed, and the rule that nothing is printed unchecked.

use std::{
    path::Path,
    process::Output,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Instant,
};

use anyhow::{Result, bail};
use attache_tests::Bed;

/// The user pressed Ctrl-C.
#[derive(Debug, thiserror::Error)]
#[error("interrupted")]
pub(crate) struct Interrupted;

/// Prints the story.
pub(crate) struct Narrator {
    interrupted: Arc<AtomicBool>,
    checked: AtomicUsize,
    began: Instant,
}

/// Ends the story at its next line.
pub(crate) struct Interrupter(Arc<AtomicBool>);

impl Interrupter {
    /// Ends the story.
    pub(crate) fn interrupt(&self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[expect(clippy::print_stdout, reason = "it narrates")]
impl Narrator {
    /// A narrator who has said nothing yet.
    pub(crate) fn new() -> Self {
        Self {
            interrupted: Arc::default(),
            checked: AtomicUsize::new(0),
            began: Instant::now(),
        }
    }

    /// What ends the story from outside.
    pub(crate) fn interrupter(&self) -> Interrupter {
        Interrupter(self.interrupted.clone())
    }

    /// Begins a chapter.
    pub(crate) fn chapter(&self, title: &str) -> Result<()> {
        self.go_on()?;
        println!("\n{title}");
        Ok(())
    }

    /// Shows a command that the user could have typed.
    pub(crate) fn command(&self, line: &str) -> Result<()> {
        self.go_on()?;
        println!("  $ {line}");
        Ok(())
    }

    /// States what was checked: `holds` decides; a difference ends the story.
    pub(crate) fn checked(&self, statement: &str, holds: bool) -> Result<()> {
        self.go_on()?;
        if !holds {
            bail!("this does not hold: {statement}");
        }
        self.checked.fetch_add(1, Ordering::Relaxed);
        println!("    ok  {statement}");
        Ok(())
    }

    /// Runs `attache` with these arguments, shows it as typed, demands success and answers what it printed.
    pub(crate) fn attache(&self, bed: &Bed, args: &[&str]) -> Result<String> {
        self.command(&format!("attache {}", quoted(args)))?;
        bed.attache_ok(args)
    }

    /// Runs `attache`, shows it, and answers its output whatever it is.
    pub(crate) fn attache_output(&self, bed: &Bed, args: &[&str]) -> Result<Output> {
        self.command(&format!("attache {}", quoted(args)))?;
        bed.attache(args)
    }

    /// Shows a few lines of what was printed.
    pub(crate) fn quote(&self, text: &str) {
        for line in text.lines() {
            println!("      | {line}");
        }
    }

    /// The last line.
    pub(crate) fn end(&self) {
        println!(
            "\ndone: {} statements checked in {:.1} s; nothing is left behind",
            self.checked.load(Ordering::Relaxed),
            self.began.elapsed().as_secs_f64()
        );
    }

    /// The last line when everything is left running.
    pub(crate) fn end_kept(&self, dir: &Path) {
        println!(
            "\ndone: {} statements checked in {:.1} s; everything runs on in {dir}\n  . {dir}/env       # where everything is, and the programs; then: attache status, attache secret list, ...\n  {dir}/stop.sh     # ends it",
            self.checked.load(Ordering::Relaxed),
            self.began.elapsed().as_secs_f64(),
            dir = dir.display()
        );
    }

    fn go_on(&self) -> Result<()> {
        if self.interrupted.load(Ordering::SeqCst) {
            return Err(Interrupted.into());
        }
        Ok(())
    }
}

fn quoted(args: &[&str]) -> String {
    let plain = |a: &str| {
        a.chars()
            .all(|c| c.is_ascii_alphanumeric() || "-_./:#@=".contains(c))
    };
    args.iter()
        .map(|a| {
            if plain(a) {
                (*a).to_owned()
            } else {
                format!("'{a}'")
            }
        })
        .collect::<Vec<_>>()
        .join(" ")
}
