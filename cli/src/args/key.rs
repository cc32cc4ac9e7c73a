//! `attache key`.

use attache_envelope::name::Keyspace;
use clap::{Args, Subcommand};

use super::{DryRun, parse};

/// Verbs on keyspaces' keys and on the store root key.
#[derive(Debug, Subcommand)]
pub enum Key {
    /// List keys: how far each is on its way, and how many values it wraps
    List(Of),
    /// Show how each keyspace's keys are
    Status(Of),
    /// Replace a key by a new one
    Rotate(Rotate),
}

/// `attache key list [KEYSPACE]`, `attache key status [KEYSPACE]`
#[derive(Debug, Clone, Args)]
pub struct Of {
    /// Only of this keyspace
    #[arg(value_name = "KEYSPACE", value_parser = parse::word(parse::keyspace))]
    pub keyspace: Option<Keyspace>,
}

/// `attache key rotate --root`
#[derive(Debug, Clone, Args)]
pub struct Rotate {
    /// The store root key: a new one, sealed to every slot; no slot's key file is needed
    #[arg(long, required = true)]
    pub root: bool,
    /// Change nothing.
    #[command(flatten)]
    pub dry_run: DryRun,
}
