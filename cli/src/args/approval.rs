//! `attache approval`.

use clap::{Args, Subcommand};

use super::{DryRun, Yes, parse};

/// Verbs on what waits for an operator.
#[derive(Debug, Subcommand)]
pub enum Approval {
    /// List what waits, and what was decided and still stands
    List,
    /// Show one
    Show(OneApproval),
    /// Let a node enroll again, with the key that asked, once, within an hour
    Approve(Approve),
    /// Refuse it, also when it was approved and not used yet
    Reject(Reject),
}

/// `attache approval show ID`
#[derive(Debug, Clone, Args)]
pub struct OneApproval {
    /// Its id, as the list and the node's log have it
    #[arg(value_name = "ID", value_parser = parse::word(parse::approval))]
    pub id: String,
}

/// `attache approval approve ID`
#[derive(Debug, Clone, Args)]
pub struct Approve {
    /// Its id, as the list and the node's log have it
    #[arg(value_name = "ID", value_parser = parse::word(parse::approval))]
    pub id: String,
    /// Why, for the audit
    #[arg(long, value_name = "TEXT", value_parser = parse::word(parse::reason))]
    pub reason: Option<String>,
    /// Change nothing.
    #[command(flatten)]
    pub dry_run: DryRun,
    /// Do not ask.
    #[command(flatten)]
    pub yes: Yes,
}

/// `attache approval reject ID`
#[derive(Debug, Clone, Args)]
pub struct Reject {
    /// Its id, as the list and the node's log have it
    #[arg(value_name = "ID", value_parser = parse::word(parse::approval))]
    pub id: String,
    /// Why, for the audit
    #[arg(long, value_name = "TEXT", value_parser = parse::word(parse::reason))]
    pub reason: Option<String>,
    /// Change nothing.
    #[command(flatten)]
    pub dry_run: DryRun,
}
