//! `attache cluster`, `attache node` and `attache operator`.

use attache_envelope::name::{ClusterName, NodeName};
use clap::{ArgGroup, Args, Subcommand};

use super::{DryRun, Yes, parse};

/// Verbs on clusters.
#[derive(Debug, Subcommand)]
pub enum Cluster {
    /// Tell the broker of a cluster
    Add(AddCluster),
    /// List clusters
    List,
    /// Show one cluster
    Show(OneCluster),
    /// Forget a cluster: its pods are refused from then on
    Remove(RemoveCluster),
}

/// `attache cluster add NAME --audience AUD (--folder DIR --issuer URL | --api-server URL --credentials DIR | --in-cluster)`
#[derive(Debug, Clone, Args)]
#[command(group = ArgGroup::new("source").required(true).args(["folder", "api_server", "in_cluster"]))]
pub struct AddCluster {
    /// The first part of its workloads' names
    #[arg(value_name = "NAME", value_parser = parse::word(parse::cluster))]
    pub name: ClusterName,
    /// The issuer of its pods' tokens, as the `iss` in them; an API server is asked when it is left out
    #[arg(
        long,
        value_name = "URL",
        value_parser = parse::word(parse::issuer),
        required_unless_present_any = ["api_server", "in_cluster"]
    )]
    pub issuer: Option<String>,
    /// The audience that its pods' tokens carry, as the CSIDriver object asks for it
    #[arg(long, value_name = "AUD", value_parser = parse::word(parse::audience))]
    pub audience: String,
    /// A folder on the broker's machine with nodes/, pods/ and jwks.json
    #[arg(long, value_name = "DIR", value_parser = parse::word(parse::broker_folder))]
    pub folder: Option<String>,
    /// The cluster's API server, as the broker reaches it: https://HOST:PORT
    #[arg(
        long,
        value_name = "URL",
        value_parser = parse::word(parse::api_server),
        requires = "credentials"
    )]
    pub api_server: Option<String>,
    /// A folder on the broker's machine with ca.crt and token for the API server; both may be replaced at any time
    #[arg(
        long,
        value_name = "DIR",
        value_parser = parse::word(parse::broker_folder),
        requires = "api_server"
    )]
    pub credentials: Option<String>,
    /// The cluster in which the broker itself runs, by its pod's service account
    #[arg(long)]
    pub in_cluster: bool,
    /// The service account whose pods enroll the nodes that they run on; without it only join tokens do
    #[arg(
        long,
        value_name = "NAMESPACE/NAME",
        value_parser = parse::word(parse::service_account),
        conflicts_with = "folder"
    )]
    pub enroll_service_account: Option<String>,
    /// The audience of the tokens that they show for it (attache-enroll, unless it is given)
    #[arg(
        long,
        value_name = "AUD",
        value_parser = parse::word(parse::audience),
        requires = "enroll_service_account"
    )]
    pub enroll_audience: Option<String>,
    /// Change nothing.
    #[command(flatten)]
    pub dry_run: DryRun,
}

/// A verb on one cluster.
#[derive(Debug, Clone, Args)]
pub struct OneCluster {
    /// The cluster's name
    #[arg(value_name = "NAME", value_parser = parse::word(parse::cluster))]
    pub name: ClusterName,
}

/// `attache cluster remove NAME`
#[derive(Debug, Clone, Args)]
pub struct RemoveCluster {
    /// The cluster's name
    #[arg(value_name = "NAME", value_parser = parse::word(parse::cluster))]
    pub name: ClusterName,
    /// Change nothing.
    #[command(flatten)]
    pub dry_run: DryRun,
    /// Do not ask.
    #[command(flatten)]
    pub yes: Yes,
}

/// Verbs on nodes.
#[derive(Debug, Subcommand)]
pub enum Node {
    /// List nodes that have joined
    List(ListNodes),
    /// Make a token that one named node may redeem once, within ten minutes
    JoinToken(JoinToken),
    /// Refuse every call of a node
    Ban(BanNode),
    /// Let a banned node call again
    Unban(UnbanNode),
    /// After a restore: let every node enroll again whose keys the store does not know any more, for an hour
    Readmit(ReadmitNodes),
}

/// `attache node list`
#[derive(Debug, Clone, Args)]
pub struct ListNodes {
    /// Only this cluster
    #[arg(long, value_name = "CLUSTER", value_parser = parse::word(parse::cluster))]
    pub cluster: Option<ClusterName>,
}

/// `attache node join-token --cluster C --node NAME`
#[derive(Debug, Clone, Args)]
pub struct JoinToken {
    /// The node's cluster
    #[arg(long, value_name = "CLUSTER", value_parser = parse::word(parse::cluster))]
    pub cluster: ClusterName,
    /// The name of its Node object
    #[arg(long, value_name = "NAME", value_parser = parse::word(parse::node_name))]
    pub node: NodeName,
    /// Change nothing.
    #[command(flatten)]
    pub dry_run: DryRun,
}

/// `attache node ban NODE`
#[derive(Debug, Clone, Args)]
pub struct BanNode {
    /// The whole SPIFFE ID, or CLUSTER/NAME, or CLUSTER/UID
    #[arg(value_name = "NODE", value_parser = parse::word(parse::node))]
    pub node: parse::NodeArg,
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

/// `attache node unban NODE`
#[derive(Debug, Clone, Args)]
pub struct UnbanNode {
    /// The whole SPIFFE ID, or CLUSTER/NAME, or CLUSTER/UID
    #[arg(value_name = "NODE", value_parser = parse::word(parse::node))]
    pub node: parse::NodeArg,
    /// Why, for the audit
    #[arg(long, value_name = "TEXT", value_parser = parse::word(parse::reason))]
    pub reason: Option<String>,
    /// Change nothing.
    #[command(flatten)]
    pub dry_run: DryRun,
}

/// `attache node readmit --all`
#[derive(Debug, Clone, Args)]
pub struct ReadmitNodes {
    /// Every live node that is left from before the restore; for a single one, approve what it waits for
    #[arg(long, required = true)]
    pub all: bool,
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

/// Verbs on operators.
#[derive(Debug, Subcommand)]
pub enum Operator {
    /// List operators
    List,
    /// Make a code with which one operator signs in once, within an hour
    Add(AddOperator),
    /// Refuse every call of an operator
    Ban(BanOperator),
    /// Let a banned operator call again
    Unban(UnbanOperator),
}

/// `attache operator add NAME`
#[derive(Debug, Clone, Args)]
pub struct AddOperator {
    /// The operator's name: a new one, or one whose certificate has ended
    #[arg(value_name = "NAME", value_parser = parse::word(parse::operator_name))]
    pub name: String,
    /// Change nothing.
    #[command(flatten)]
    pub dry_run: DryRun,
}

/// `attache operator ban NAME`
#[derive(Debug, Clone, Args)]
pub struct BanOperator {
    /// The operator's name
    #[arg(value_name = "NAME", value_parser = parse::word(parse::operator_name))]
    pub name: String,
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

/// `attache operator unban NAME`
#[derive(Debug, Clone, Args)]
pub struct UnbanOperator {
    /// The operator's name
    #[arg(value_name = "NAME", value_parser = parse::word(parse::operator_name))]
    pub name: String,
    /// Why, for the audit
    #[arg(long, value_name = "TEXT", value_parser = parse::word(parse::reason))]
    pub reason: Option<String>,
    /// Change nothing.
    #[command(flatten)]
    pub dry_run: DryRun,
}
