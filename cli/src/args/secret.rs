//! `attache secret` and `attache keyspace`.

use std::ffi::OsString;

use attache_envelope::name::{Keyspace as KeyspaceName, SecretPath, SecretRef};
use clap::{Args, Subcommand, ValueEnum};

use super::{DryRun, Yes, parse};

/// What `keyspace set` takes beside the number of versions, by the arguments' ids.
const SETTINGS: [&str; 4] = [
    "max_key_age",
    "max_key_wraps",
    "rotate_automatically",
    "backup_age",
];

/// Verbs on secrets.
#[derive(Debug, Subcommand)]
pub enum Secret {
    /// Store fields as a new version; fields that are not named are carried over
    Put(Put),
    /// List secrets: names, versions and fields, never values
    List(List),
    /// Show one secret
    Show(One),
    /// Show a secret's versions, newest first
    Versions(One),
    /// Make an earlier version the active one
    Rollback(Rollback),
    /// Keep a version, however many its keyspace keeps
    Pin(Pin),
    /// Let a pinned version go when its keyspace does not keep it
    Unpin(Pin),
    /// Take a version, or a whole secret, out of the store for good
    Destroy(Destroy),
}

/// `attache secret put REF FIELD...`
#[derive(Debug, Clone, Args)]
pub struct Put {
    /// KEYSPACE/NAME
    #[arg(value_name = "REF", value_parser = parse::word(parse::secret))]
    pub path: SecretPath,
    /// FIELD (asked for without echo), FIELD=@PATH (a file) or FIELD=- (standard input)
    #[arg(value_name = "FIELD", required_unless_present = "literal")]
    pub fields: Vec<OsString>,
    /// A value on the command line, where the process list and the shell's history show it
    #[arg(long, value_name = "FIELD=VALUE")]
    pub literal: Vec<OsString>,
    /// Drop the fields that are not named, in place of carrying them over
    #[arg(long)]
    pub replace: bool,
    /// Only if the active version is this one; 0: only if there is no such secret yet
    #[arg(long, value_name = "N", value_parser = parse::word(parse::version))]
    pub expect_version: Option<u64>,
    /// Drop the line's end of a value that is one line
    #[arg(long)]
    pub trim_newline: bool,
    /// Change nothing.
    #[command(flatten)]
    pub dry_run: DryRun,
}

/// `attache secret list`
#[derive(Debug, Clone, Args)]
pub struct List {
    /// Only this keyspace
    #[arg(value_name = "KEYSPACE", value_parser = parse::word(parse::keyspace))]
    pub keyspace: Option<KeyspaceName>,
}

/// A verb on one secret.
#[derive(Debug, Clone, Args)]
pub struct One {
    /// KEYSPACE/NAME
    #[arg(value_name = "REF", value_parser = parse::word(parse::secret))]
    pub path: SecretPath,
}

/// `attache secret rollback REF[@VERSION]`
#[derive(Debug, Clone, Args)]
pub struct Rollback {
    /// KEYSPACE/NAME: to the version before the active one; KEYSPACE/NAME@VERSION: to that version
    #[arg(value_name = "REF", value_parser = parse::word(parse::secret_version))]
    pub reference: SecretRef,
    /// Only if the active version is this one
    #[arg(long, value_name = "N", value_parser = parse::word(parse::existing_version))]
    pub expect_version: Option<u64>,
    /// Change nothing.
    #[command(flatten)]
    pub dry_run: DryRun,
}

/// `attache secret pin REF@VERSION`, and `unpin`
#[derive(Debug, Clone, Args)]
pub struct Pin {
    /// KEYSPACE/NAME@VERSION
    #[arg(value_name = "REF@VERSION", value_parser = parse::word(parse::one_version))]
    pub reference: SecretRef,
    /// Why, for the audit log
    #[arg(long, value_name = "TEXT", value_parser = parse::word(parse::reason))]
    pub reason: Option<String>,
    /// Change nothing.
    #[command(flatten)]
    pub dry_run: DryRun,
}

/// `attache secret destroy REF[@VERSION]`
#[derive(Debug, Clone, Args)]
pub struct Destroy {
    /// KEYSPACE/NAME: every version, and the name stays taken; KEYSPACE/NAME@VERSION: that version
    #[arg(value_name = "REF", value_parser = parse::word(parse::secret_version))]
    pub reference: SecretRef,
    /// Do not ask.
    #[command(flatten)]
    pub yes: Yes,
    /// Change nothing.
    #[command(flatten)]
    pub dry_run: DryRun,
}

/// Verbs on keyspaces.
#[derive(Debug, Subcommand)]
pub enum Keyspace {
    /// Make a keyspace with its own keys; no put makes one by itself
    Create(Create),
    /// List keyspaces, destroyed ones too
    List,
    /// Show one keyspace
    Show(OneKeyspace),
    /// Change what a keyspace keeps
    Set(SetKeyspace),
    /// Destroy all keys of a keyspace at once, and all that they wrapped; its name is not given again
    Destroy(DestroyKeyspace),
}

/// `attache keyspace create NAME`
#[derive(Debug, Clone, Args)]
pub struct Create {
    /// The first segment of its secrets' names
    #[arg(value_name = "NAME", value_parser = parse::word(parse::keyspace))]
    pub name: KeyspaceName,
    /// Keep so many versions of a secret, the newest, beside the active, pinned and mounted ones; 0 keeps all [default: 20]
    #[arg(long, value_name = "N", value_parser = parse::word(parse::max_versions))]
    pub max_versions: Option<u32>,
    /// What is demanded of its keys.
    #[command(flatten)]
    pub keys: KeySettings,
    /// Change nothing.
    #[command(flatten)]
    pub dry_run: DryRun,
}

/// What a keyspace demands of its keys.
#[derive(Debug, Clone, Args)]
pub struct KeySettings {
    /// Rotate a key that wraps for so long, such as 90d, an hour at least; 0: no limit [new keyspaces: 90d]
    #[arg(long, value_name = "DURATION", value_parser = parse::word(parse::key_age))]
    pub max_key_age: Option<u32>,
    /// Rotate a key that has wrapped so often; 0: no limit [new keyspaces: 4294967296]
    #[arg(long, value_name = "N", value_parser = parse::word(parse::key_wraps))]
    pub max_key_wraps: Option<u64>,
    /// Whether the broker does that by itself, or only says that it is due [new keyspaces: yes]
    #[arg(long, value_name = "YES|NO", value_enum)]
    pub rotate_automatically: Option<YesNo>,
    /// How long you keep backups: a retired key is not destroyed sooner; 0: not said [new keyspaces: 0]
    #[arg(long, value_name = "DURATION", value_parser = parse::word(parse::backup_age))]
    pub backup_age: Option<u32>,
}

/// A setting that is on or off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum YesNo {
    /// On
    Yes,
    /// Off
    No,
}

/// `attache keyspace destroy NAME`
#[derive(Debug, Clone, Args)]
pub struct DestroyKeyspace {
    /// The keyspace
    #[arg(value_name = "NAME", value_parser = parse::word(parse::keyspace))]
    pub name: KeyspaceName,
    /// Do not ask.
    #[command(flatten)]
    pub yes: Yes,
    /// Change nothing.
    #[command(flatten)]
    pub dry_run: DryRun,
}

/// `attache keyspace show NAME`
#[derive(Debug, Clone, Args)]
pub struct OneKeyspace {
    /// The keyspace
    #[arg(value_name = "NAME", value_parser = parse::word(parse::keyspace))]
    pub name: KeyspaceName,
}

/// `attache keyspace set NAME --max-versions N`, and the other settings; what is not named stays.
#[derive(Debug, Clone, Args)]
pub struct SetKeyspace {
    /// The keyspace
    #[arg(value_name = "NAME", value_parser = parse::word(parse::keyspace))]
    pub name: KeyspaceName,
    /// Keep so many versions of a secret, the newest, beside the active, pinned and mounted ones; 0 keeps all. The rest goes
    #[arg(long, value_name = "N", required_unless_present_any = SETTINGS, value_parser = parse::word(parse::max_versions))]
    pub max_versions: Option<u32>,
    /// What is demanded of its keys.
    #[command(flatten)]
    pub keys: KeySettings,
    /// Change nothing.
    #[command(flatten)]
    pub dry_run: DryRun,
}
