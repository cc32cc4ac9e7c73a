//! `attache backup`.

use std::path::PathBuf;

use attache_translog::Verifier;
use clap::{Args, Subcommand};

use super::{DryRun, parse};

/// Verbs on backups.
#[derive(Debug, Subcommand)]
pub enum Backup {
    /// Write one state of the whole store to a file, as sealed as it lies in the store
    Create(Create),
    /// List the backups that the store knows of, and which were found whole
    List,
    /// Hold a file against its signature, byte by byte
    Verify(Verify),
}

/// `attache backup create FILE`
#[derive(Debug, Clone, Args)]
pub struct Create {
    /// The file to make; none that is there is replaced
    #[arg(value_name = "FILE", value_parser = parse::path())]
    pub file: PathBuf,
    /// Why, for the audit
    #[arg(long, value_name = "TEXT", value_parser = parse::word(parse::reason))]
    pub reason: Option<String>,
    /// Make nothing.
    #[command(flatten)]
    pub dry_run: DryRun,
}

/// `attache backup verify FILE`
#[derive(Debug, Clone, Args)]
pub struct Verify {
    /// The backup
    #[arg(value_name = "FILE", value_parser = parse::path())]
    pub file: PathBuf,
    /// The public key of the store's audit log, as `attache status` showed it when it was trusted
    #[arg(long, value_name = "VKEY", value_parser = parse::word(parse::vkey))]
    pub vkey: Option<Verifier>,
    /// Ask no broker, and put nothing on record
    #[arg(long, requires = "vkey")]
    pub offline: bool,
}
