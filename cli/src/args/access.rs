//! `attache grant` and `attache guardrail`.

use attache_envelope::name::{GrantName, Keyspace, SecretRef, WorkloadRef};
use clap::{Args, Subcommand};

use super::{DryRun, Yes, parse};

/// Verbs on grants.
#[derive(Debug, Subcommand)]
pub enum Grant {
    /// Let a workload read a secret, or one field of it
    Add(Add),
    /// List grants
    List(List),
    /// Show one grant
    Show(Show),
    /// Take a grant back; what was mounted by it stays until the pod ends
    Remove(Remove),
}

/// `attache grant add NAME REF[#FIELD] --to WORKLOAD`
#[derive(Debug, Clone, Args)]
pub struct Add {
    /// The grant's own name
    #[arg(value_name = "NAME", value_parser = parse::word(parse::grant))]
    pub name: GrantName,
    /// KEYSPACE/NAME for every field, KEYSPACE/NAME#FIELD for one
    #[arg(value_name = "REF", value_parser = parse::word(parse::secret_field))]
    pub reference: SecretRef,
    /// CLUSTER/NAMESPACE/SERVICEACCOUNT/CONTAINER
    #[arg(long, value_name = "WORKLOAD", value_parser = parse::word(parse::workload))]
    pub to: WorkloadRef,
    /// Change nothing.
    #[command(flatten)]
    pub dry_run: DryRun,
}

/// `attache grant list`
#[derive(Debug, Clone, Args)]
pub struct List {
    /// Only grants of this keyspace's secrets
    #[arg(value_name = "KEYSPACE", value_parser = parse::word(parse::keyspace))]
    pub keyspace: Option<Keyspace>,
}

/// `attache grant show NAME`
#[derive(Debug, Clone, Args)]
pub struct Show {
    /// The grant's name
    #[arg(value_name = "NAME", value_parser = parse::word(parse::grant))]
    pub name: GrantName,
}

/// `attache grant remove NAME`
#[derive(Debug, Clone, Args)]
pub struct Remove {
    /// The grant's name
    #[arg(value_name = "NAME", value_parser = parse::word(parse::grant))]
    pub name: GrantName,
    /// Change nothing.
    #[command(flatten)]
    pub dry_run: DryRun,
    /// Do not ask.
    #[command(flatten)]
    pub yes: Yes,
}

/// Verbs on guard rails.
#[derive(Debug, Subcommand)]
pub enum Guardrail {
    /// List the guard rails
    List,
}
