//! `attache broker`.

use std::path::PathBuf;

use attache_envelope::name::SlotName;
use clap::{Args, Subcommand};

use super::{DryRun, Yes, parse};

/// Verbs on a broker as a whole.
#[derive(Debug, Subcommand)]
pub enum Broker {
    /// Say whether the broker is sealed, and what opens it: exit 0 if it is open, else 8
    Status(Status),
    /// End what runs, wipe every key, and wait for `broker unseal`
    Seal(Seal),
    /// Give a sealed broker what opens one of its slots
    Unseal(Unseal),
}

/// `attache broker status`
#[derive(Debug, Clone, Args)]
pub struct Status {
    /// Where the broker listens.
    #[command(flatten)]
    pub enroll: Enroll,
}

/// Where a sealed broker can be reached.
#[derive(Debug, Clone, Args)]
pub struct Enroll {
    /// Where the broker listens for those who have no certificate: HOST:PORT; as in the context, unless it is
    /// given
    #[arg(long, value_name = "ADDR", value_parser = parse::word(parse::address))]
    pub enroll: Option<String>,
}

/// `attache broker seal`
#[derive(Debug, Clone, Args)]
pub struct Seal {
    /// Why, for the audit log
    #[arg(long, value_name = "TEXT", value_parser = parse::word(parse::reason))]
    pub reason: Option<String>,
    /// Change nothing.
    #[command(flatten)]
    pub dry_run: DryRun,
    /// Do not ask.
    #[command(flatten)]
    pub yes: Yes,
}

/// `attache broker unseal [--slot SLOT] [--key-file FILE | --passphrase-file FILE | --share FILE] [--boot-key HEX]`
#[derive(Debug, Clone, Args)]
pub struct Unseal {
    /// The one slot to open it by; else each that takes what is given
    #[arg(long, value_name = "SLOT", value_parser = parse::word(parse::slot))]
    pub slot: Option<SlotName>,
    /// The key file of a slot
    #[arg(long, value_name = "FILE", value_parser = parse::path())]
    pub key_file: Option<PathBuf>,
    /// A file with the passphrase of a slot, closed to others, in place of asking for it
    #[arg(long, value_name = "FILE", value_parser = parse::path(), conflicts_with = "key_file")]
    pub passphrase_file: Option<PathBuf>,
    /// A share of a slot: it opens once enough people have given theirs, within 15 minutes of the first one
    #[arg(long, value_name = "FILE", value_parser = parse::path(), conflicts_with_all = ["key_file", "passphrase_file"])]
    pub share: Option<PathBuf>,
    /// The fingerprint of the boot key, from the broker's log; else it is asked for
    #[arg(long, value_name = "HEX", value_parser = parse::word(parse::fingerprint))]
    pub boot_key: Option<String>,
    /// Where the broker listens.
    #[command(flatten)]
    pub enroll: Enroll,
}
