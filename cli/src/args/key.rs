//! `attache key`.

use attache_envelope::name::Keyspace;
use clap::{Args, Subcommand};

use super::parse;

/// Verbs on keyspaces' keys.
#[derive(Debug, Subcommand)]
pub enum Key {
    /// List keys: how far each is on its way, and how many values it wraps
    List(Of),
    /// Show how each keyspace's keys are
    Status(Of),
}

/// `attache key list [KEYSPACE]`, `attache key status [KEYSPACE]`
#[derive(Debug, Clone, Args)]
pub struct Of {
    /// Only of this keyspace
    #[arg(value_name = "KEYSPACE", value_parser = parse::word(parse::keyspace))]
    pub keyspace: Option<Keyspace>,
}
