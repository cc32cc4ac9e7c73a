//! The operators' command line, `attache`.
//!
//! The flow: [`args`] parses the words and refuses what is malformed before anything is read; [`context`] says which
//! broker and whose key; [`session`] opens the connection and keeps the certificate fresh; a module of [`command`]
//! carries the verb out and answers an [`output::Report`]; [`output`] prints it. Every way to fail is a
//! [`failure::Failure`]: what, why, what to do, and one of the documented exit codes. What came over gRPC becomes one
//! in [`status`] and nowhere else.
//!
//! Must never: print a secret's value or a token in an error, send a value that is not sealed, or believe a broker
//! that is not the pinned one.

pub mod args;
pub mod backup_file;
pub mod clap_error;
pub mod command;
pub mod context;
pub mod failure;
pub mod fields;
pub mod near;
pub mod offered;
pub mod output;
pub mod put;
pub mod recorded;
pub mod renewal;
pub mod session;
pub mod share;
pub mod slot_secret;
pub mod status;
pub mod terminal;
pub mod unseal;

mod environment;
mod run;

pub use environment::Environment;
pub use failure::Exit;
pub use run::run;
