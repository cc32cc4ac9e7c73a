//! Settings of a process: one TOML file, every key declared, every value typed before a socket opens.
//!
//! A process declares a [`Schema`], a table of [`Key`]s; [`Schema::read`] turns a file into [`Settings`] or says which
//! key is wrong and how to mend it. An unknown key is refused with the nearest known one: a misspelt limit must not
//! pass for its default. Values are never echoed: a setting may be a path to a secret, and a user may have pasted the
//! secret itself.

mod error;
mod schema;
mod value;

pub use error::SettingsError;
pub use schema::{Fallback, Key, Kind, Schema};
pub use value::Settings;
