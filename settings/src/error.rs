//! What can be wrong with a settings file.

use std::io;

/// Why a settings file was refused. No variant carries a value of the file, or its name: who asked for it has that.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The file cannot be read.
    #[error("cannot read the settings file")]
    Read(#[source] io::Error),
    /// The file is larger than a settings file can be.
    #[error("the settings file is larger than {limit} bytes; is it the right file?")]
    TooLarge {
        /// The limit in bytes.
        limit: u64,
    },
    /// The text is not TOML (or not UTF-8).
    #[error("not a TOML file: line {line}: {problem}")]
    Syntax {
        /// 1-based; 0 where the text has no lines to count.
        line: usize,
        /// What the parser expected.
        problem: String,
    },
    /// A key that no setting has.
    #[error("unknown key {key}{}", nearest.map(|n| format!("; did you mean {n}?")).unwrap_or_default())]
    Unknown {
        /// The key as written, with its section, shortened to 80 characters.
        key: String,
        /// The known key that is nearest, when one is near.
        nearest: Option<&'static str>,
    },
    /// A required key is not there.
    #[error("{key} is missing: {help}")]
    Missing {
        /// The key.
        key: &'static str,
        /// What it is for.
        help: &'static str,
    },
    /// The value is of another type.
    #[error("{key} must be {expected}: {help}")]
    WrongType {
        /// The key.
        key: &'static str,
        /// The type, with its article.
        expected: String,
        /// What it is for.
        help: &'static str,
    },
    /// The value is of the right type and still no good.
    #[error("{key} {problem}")]
    BadValue {
        /// The key.
        key: &'static str,
        /// What is wrong and what would be right.
        problem: String,
    },
    /// The program asked for a key that its schema does not have, or as another type: a defect of the program.
    #[error("{0} is not declared with this type (a defect of the program, not of the file)")]
    Undeclared(String),
}
