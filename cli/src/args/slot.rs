//! `attache slot`.

use std::path::PathBuf;

use attache_envelope::name::SlotName;
use clap::{Args, Subcommand};

use super::{DryRun, Yes, parse};

/// Verbs on the ways to open the store.
#[derive(Debug, Subcommand)]
pub enum Slot {
    /// List the slots
    List,
    /// Make one more way to open the store
    #[command(subcommand, arg_required_else_help = true)]
    Add(Add),
    /// Show that what you hold opens a slot, and keep the time of it
    Verify(Verify),
    /// Take a slot away; the last one stays
    Remove(Remove),
}

/// Kinds of slots.
#[derive(Debug, Subcommand)]
pub enum Add {
    /// A key file, made here
    KeyFile(AddKeyFile),
    /// A passphrase that people know
    Passphrase(AddPassphrase),
    /// The KMS plugin of the broker's machine (keys.kms_socket): the broker starts with nobody there
    Kms(AddKms),
    /// Shares for several people, made here: so many of them together open the store, and fewer say nothing
    Shares(AddShares),
}

/// `attache slot add key-file --out FILE`
#[derive(Debug, Clone, Args)]
pub struct AddKeyFile {
    /// The key file to make (0400): it opens the store, so it belongs where the store is not
    #[arg(long, value_name = "FILE", value_parser = parse::path())]
    pub out: PathBuf,
    /// The slot's name; else one is made up
    #[arg(long, value_name = "NAME", value_parser = parse::word(parse::slot))]
    pub name: Option<SlotName>,
    /// Change nothing, and make no file.
    #[command(flatten)]
    pub dry_run: DryRun,
}

/// `attache slot add passphrase`
#[derive(Debug, Clone, Args)]
pub struct AddPassphrase {
    /// A file with the passphrase, closed to others, in place of asking for it twice
    #[arg(long, value_name = "FILE", value_parser = parse::path())]
    pub passphrase_file: Option<PathBuf>,
    /// The slot's name; else one is made up
    #[arg(long, value_name = "NAME", value_parser = parse::word(parse::slot))]
    pub name: Option<SlotName>,
    /// Change nothing.
    #[command(flatten)]
    pub dry_run: DryRun,
}

/// `attache slot add kms`
#[derive(Debug, Clone, Args)]
pub struct AddKms {
    /// The slot's name; else one is made up
    #[arg(long, value_name = "NAME", value_parser = parse::word(parse::slot))]
    pub name: Option<SlotName>,
    /// Change nothing.
    #[command(flatten)]
    pub dry_run: DryRun,
}

/// `attache slot add shares --threshold N --shares M --out FOLDER`
#[derive(Debug, Clone, Args)]
pub struct AddShares {
    /// How many shares open the slot, 2 at least
    #[arg(long, value_name = "N", value_parser = parse::word(parse::shares))]
    pub threshold: u8,
    /// How many there are, 32 at most
    #[arg(long, value_name = "M", value_parser = parse::word(parse::shares))]
    pub shares: u8,
    /// The folder to make the shares in, a file each (0400): give each to another person, and keep none there
    #[arg(long, value_name = "FOLDER", value_parser = parse::path())]
    pub out: PathBuf,
    /// The slot's name; else one is made up
    #[arg(long, value_name = "NAME", value_parser = parse::word(parse::slot))]
    pub name: Option<SlotName>,
    /// Change nothing, and make no file.
    #[command(flatten)]
    pub dry_run: DryRun,
}

/// `attache slot verify SLOT [--key-file FILE | --passphrase-file FILE | --share FILE...]`
#[derive(Debug, Clone, Args)]
pub struct Verify {
    /// The slot's name or id
    #[arg(value_name = "SLOT", value_parser = parse::word(parse::slot))]
    pub slot: SlotName,
    /// The key file that is to open it
    #[arg(long, value_name = "FILE", value_parser = parse::path())]
    pub key_file: Option<PathBuf>,
    /// A file with the passphrase that is to open it, in place of asking for it
    #[arg(long, value_name = "FILE", value_parser = parse::path(), conflicts_with = "key_file")]
    pub passphrase_file: Option<PathBuf>,
    /// A share of it, once for each: enough of them open it, and fewer are held against what the slot knows its shares by
    #[arg(long, value_name = "FILE", value_parser = parse::path(), conflicts_with_all = ["key_file", "passphrase_file"])]
    pub share: Vec<PathBuf>,
    /// Change nothing.
    #[command(flatten)]
    pub dry_run: DryRun,
}

/// `attache slot remove SLOT`
#[derive(Debug, Clone, Args)]
pub struct Remove {
    /// The slot's name or id
    #[arg(value_name = "SLOT", value_parser = parse::word(parse::slot))]
    pub slot: SlotName,
    /// Change nothing.
    #[command(flatten)]
    pub dry_run: DryRun,
    /// Do not ask.
    #[command(flatten)]
    pub yes: Yes,
}
