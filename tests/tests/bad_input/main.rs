//! Every input of the programs against every kind of bad input, on real processes.
//!
//! | input | table | walks |
//! |---|---|---|
//! | requests to the broker | `broker` | the compiled descriptor of `attache.v1`, every RPC, every field |
//! | requests to the node plugin | `node` | the same of `csi.v1` and `pluginregistration` |
//! | keys of the settings files | `settings` | the schemas of both programs, the CLI's keys |
//! | files and certificates | `files` | a list: nothing declares them |
//!
//! The kinds are: missing, empty, too long, wrong type, non-UTF-8 or NUL, unknown. Each field has for each kind the
//! answer that is demanded, or a written reason why there is none; a field without a row fails the walk, and so does a
//! row without a field. Arguments of the CLI have the like in `cli/tests/arguments`; attributes of volumes, claims of
//! tokens and certificates have theirs beside the code that parses them.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::wildcard_enum_match_arm,
    reason = "a test that meets the unexpected fails"
)]

mod broker;
mod files;
mod kinds;
mod node;
mod settings;
mod walk;
