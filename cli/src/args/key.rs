//! `attache key`.

use std::time::Duration;

use attache_envelope::name::{KeyRef, Keyspace};
use clap::{Args, Subcommand};

use super::{DryRun, Yes, parse};

/// Verbs on keyspaces' keys and on the store root key.
#[derive(Debug, Subcommand)]
pub enum Key {
    /// List keyspaces' keys: how far each is on its way, and how many values it wraps; the CA's are in `key status --ca`
    List(Of),
    /// Show how each keyspace's keys are, and how far a rotation is
    Status(Status),
    /// Give a keyspace a new key, and wrap its values again under it; or the store a new root, MAC or audit key; or the broker a new CA
    Rotate(Rotate),
    /// Destroy a retired key for good, after a look at every value
    Destroy(Destroy),
}

/// `attache key list [KEYSPACE]`
#[derive(Debug, Clone, Args)]
pub struct Of {
    /// Only of this keyspace
    #[arg(value_name = "KEYSPACE", value_parser = parse::word(parse::keyspace))]
    pub keyspace: Option<Keyspace>,
}

/// `attache key status [KEYSPACE]`
#[derive(Debug, Clone, Args)]
pub struct Status {
    /// Of what.
    #[command(flatten)]
    pub of: Of,
    /// Wait until every value is wrapped under the active key
    #[arg(long)]
    pub wait: bool,
    /// The broker's CA instead: how far a rotation of it is, and who still needs the one before
    #[arg(long, conflicts_with_all = ["keyspace", "wait"])]
    pub ca: bool,
    /// The key of the rows' MACs instead: how far a rotation of it is
    #[arg(long, conflicts_with_all = ["keyspace", "wait", "ca"])]
    pub mac: bool,
    /// The keys that sign the audit log instead, with what verifies them
    #[arg(long, conflicts_with_all = ["keyspace", "wait", "ca", "mac"])]
    pub audit: bool,
}

/// `attache key rotate KEYSPACE`, `attache key rotate --root`, `attache key rotate --ca [--drop EPOCH | --now]`, `attache key rotate --mac`,
/// `attache key rotate --audit`
#[derive(Debug, Clone, Args)]
pub struct Rotate {
    /// Whose key
    #[arg(value_name = "KEYSPACE", required_unless_present_any = ["root", "ca", "mac", "audit"], value_parser = parse::word(parse::keyspace))]
    pub keyspace: Option<Keyspace>,
    /// The store root key: a new one, sealed to every slot; no slot's key file is needed
    #[arg(long)]
    pub root: bool,
    /// The broker's CA: a new one signs nodes and operators, and the one before is trusted until nobody needs it
    #[arg(long, conflicts_with_all = ["root", "keyspace", "rate", "no_wait"])]
    pub ca: bool,
    /// The key of the rows' MACs: every row is tagged anew under another one, and the one before is then dropped
    #[arg(long, conflicts_with_all = ["root", "ca", "keyspace", "rate", "no_wait", "wait"])]
    pub mac: bool,
    /// The key that signs the audit log: another one signs from now on, and the one before signs nothing more here
    #[arg(long, conflicts_with_all = ["root", "ca", "mac", "keyspace", "rate", "no_wait", "wait"])]
    pub audit: bool,
    /// Drop the CA of this epoch at once instead, as one in wrong hands: who knows no other is cut off
    #[arg(long, value_name = "EPOCH", requires = "ca", value_parser = parse::word(parse::rate))]
    pub drop: Option<u32>,
    /// Trust no CA but the new one from the same change on, for one in wrong hands: every node and operator is cut off, the caller
    /// too
    #[arg(long, requires = "ca", conflicts_with = "drop")]
    pub now: bool,
    /// Wrap at most so many values a second again; without it as many as go
    #[arg(long, value_name = "N", value_parser = parse::word(parse::rate))]
    pub rate: Option<u32>,
    /// Do not wait until the values are wrapped again; the broker goes on with it
    #[arg(long)]
    pub no_wait: bool,
    /// Wait at most so long, such as 30s, 5min or 2h; without it as long as it takes
    #[arg(long, value_name = "DURATION", conflicts_with = "no_wait", value_parser = parse::word(parse::duration))]
    pub wait: Option<Duration>,
    /// Change nothing.
    #[command(flatten)]
    pub dry_run: DryRun,
    /// Do not ask.
    #[command(flatten)]
    pub yes: Yes,
}

impl Rotate {
    /// Whether anything is given that the store root key has no use for.
    #[must_use]
    pub fn is_of_a_keyspace(&self) -> bool {
        self.keyspace.is_some() || self.rate.is_some() || self.no_wait || self.wait.is_some()
    }
}

/// `attache key destroy KEYSPACE@EPOCH`
#[derive(Debug, Clone, Args)]
pub struct Destroy {
    /// KEYSPACE@EPOCH, as the list has it
    #[arg(value_name = "KEY", value_parser = parse::word(parse::key))]
    pub key: KeyRef,
    /// Also before the backup age of its keyspace is over
    #[arg(long)]
    pub now: bool,
    /// Change nothing.
    #[command(flatten)]
    pub dry_run: DryRun,
    /// Do not ask.
    #[command(flatten)]
    pub yes: Yes,
}
