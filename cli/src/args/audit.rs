//! `attache audit` and `attache why`.

use std::path::PathBuf;

use attache_translog::Verifier;
use clap::{Args, Subcommand};

use super::{parse, parse::Decision};

/// Verbs on the audit log.
#[derive(Debug, Subcommand)]
pub enum Audit {
    /// Show the newest records
    Tail(Tail),
    /// Compute the whole log again and hold it against its signatures
    Verify(Verify),
}

/// `attache audit tail`
#[derive(Debug, Clone, Args)]
pub struct Tail {
    /// How many records before the end
    #[arg(short = 'n', long = "lines", value_name = "N", default_value_t = 10, value_parser = parse::word(parse::lines))]
    pub lines: u64,
    /// Go on with the records that come
    #[arg(long, short)]
    pub follow: bool,
}

/// `attache audit verify [DIR]`
#[derive(Debug, Clone, Args)]
pub struct Verify {
    /// A broker's audit folder, or a copy of it, in place of asking the broker
    #[arg(value_name = "DIR", value_parser = parse::path(), requires = "vkey")]
    pub dir: Option<PathBuf>,
    /// The public key of the log, as `attache status` showed it when it was trusted
    #[arg(long, value_name = "VKEY", value_parser = parse::word(parse::vkey))]
    pub vkey: Option<Verifier>,
    /// A checkpoint that was kept: the log must continue it
    #[arg(long, value_name = "FILE", value_parser = parse::path())]
    pub at_least: Option<PathBuf>,
    /// Keep the checkpoint in this file, when nothing was found; one that it holds already counts as --at-least
    #[arg(long, value_name = "FILE", value_parser = parse::path())]
    pub save: Option<PathBuf>,
}

/// `attache why DECISION`
#[derive(Debug, Clone, Args)]
pub struct Why {
    /// The 8 hexadecimal digits in the pod's event
    #[arg(value_name = "DECISION", value_parser = parse::word(parse::decision))]
    pub decision: Decision,
}
