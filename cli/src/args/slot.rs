//! `attache slot`.

use clap::Subcommand;

/// Verbs on the ways to open the store.
#[derive(Debug, Subcommand)]
pub enum Slot {
    /// List the slots
    List,
}
