//! The words of the command line, as types: noun, then verb; a few words typed daily stand alone.
//!
//! The parsers in [`parse`] accept a word or say what would be right; they never repeat the word, because a user may
//! have typed a secret in the wrong place. What goes beyond one word (a file, a prompt, a broker) comes later.

pub mod access;
pub mod approval;
pub mod audit;
pub mod backup;
pub mod broker;
pub mod fleet;
pub mod key;
pub mod login;
pub mod parse;
pub mod secret;
pub mod slot;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// The whole command line.
#[derive(Debug, Parser)]
#[command(
    name = "attache",
    version,
    about = "Writes secrets, grants them to workloads, and shows who read what.",
    long_about = "Writes secrets, grants them to workloads, and shows who read what.\n\nA secret is KEYSPACE/NAME with numbered \
                  versions of named fields. No command shows a secret's value.",
    propagate_version = true,
    disable_help_subcommand = true,
    after_help = "Exit codes: 0 done, 1 failed, 2 usage, 3 denied, 4 unavailable (try again), 5 precondition, conflict or not \
                  found, 6 partly done, 7 not signed in, 8 a check found something, 130 interrupted.\nEnvironment: \
                  ATTACHE_CONFIG names the settings file, ATTACHE_CONTEXT the context, NO_COLOR turns colors off."
)]
pub struct Cli {
    /// What holds for every command.
    #[command(flatten)]
    pub global: Global,
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

/// What holds for every command.
#[derive(Debug, Clone, Args)]
pub struct Global {
    /// Which context of the settings file, in place of ATTACHE_CONTEXT and of the current one
    #[arg(long, global = true, value_name = "NAME", value_parser = parse::word(parse::context_name))]
    pub context: Option<String>,
    /// How to print the answer; json and yaml are documented and only grow
    #[arg(long, short, global = true, value_name = "FORMAT", value_enum, default_value_t = Format::Table)]
    pub output: Format,
    /// No colors, as with NO_COLOR
    #[arg(long, global = true)]
    pub no_color: bool,
    /// Only answers and errors: no hints, no warnings, no progress
    #[arg(long, short, global = true)]
    pub quiet: bool,
}

/// How an answer is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people
    Table,
    /// One JSON document (one a line where the answer is a stream)
    Json,
    /// The same, as YAML
    Yaml,
    /// Names alone, one a line
    Name,
}

/// The nouns, and the words that stand alone.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Write secrets and look at them
    #[command(subcommand, arg_required_else_help = true)]
    Secret(secret::Secret),
    /// Make and list keyspaces, which have keys of their own
    #[command(subcommand, arg_required_else_help = true)]
    Keyspace(secret::Keyspace),
    /// Look at the broker's keys, and replace them by new ones
    #[command(subcommand, arg_required_else_help = true)]
    Key(key::Key),
    /// Say which workload may read what
    #[command(subcommand, arg_required_else_help = true)]
    Grant(access::Grant),
    /// Conditions that hold for every grant
    #[command(subcommand, arg_required_else_help = true)]
    Guardrail(access::Guardrail),
    /// Say where the facts about a cluster's pods come from
    #[command(subcommand, arg_required_else_help = true)]
    Cluster(fleet::Cluster),
    /// Enroll, look at and ban machines with a node plugin
    #[command(subcommand, arg_required_else_help = true)]
    Node(fleet::Node),
    /// Add, look at and ban operators
    #[command(subcommand, arg_required_else_help = true)]
    Operator(fleet::Operator),
    /// Say whether a node that has an identity may enroll again
    #[command(subcommand, arg_required_else_help = true)]
    Approval(approval::Approval),
    /// The ways to open the store
    #[command(subcommand, arg_required_else_help = true)]
    Slot(slot::Slot),
    /// Read the audit log and verify it
    #[command(subcommand, arg_required_else_help = true)]
    Audit(audit::Audit),
    /// Write the store to a file, and see that such files are whole
    #[command(subcommand, arg_required_else_help = true)]
    Backup(backup::Backup),
    /// Seal a broker, open it, and see which of the two it is
    #[command(subcommand, arg_required_else_help = true)]
    Broker(broker::Broker),
    /// Sign in, or renew the certificate now
    Login(login::Login),
    /// How the broker is
    Status,
    /// What there is to look at, and what to do; exit 8 when there is anything
    Doctor,
    /// Why a volume was refused, with the true reason
    Why(audit::Why),
    /// Print the completions of a shell
    Completion(Completion),
}

/// `attache completion SHELL`
#[derive(Debug, Clone, Args)]
pub struct Completion {
    /// Whose completions
    #[arg(value_enum)]
    pub shell: clap_complete::Shell,
}

/// For verbs that change something.
#[derive(Debug, Clone, Copy, Args)]
pub struct DryRun {
    /// Say what would change, and change nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// For verbs that take something away.
#[derive(Debug, Clone, Copy, Args)]
pub struct Yes {
    /// Do not ask for the name to be typed
    #[arg(long, short)]
    pub yes: bool,
}
