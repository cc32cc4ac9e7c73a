//! What a node plugin says of its version: shown to operators, believed for nothing.

use std::str::FromStr;

/// The longest version, in bytes.
const MAX_BYTES: usize = 64;

/// A node plugin's version: at most 64 bytes without control characters; empty for whoever says none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PluginVersion(String);

/// The text is too long or cannot be printed.
#[derive(Debug, thiserror::Error)]
#[error("must be at most {MAX_BYTES} printable bytes")]
pub struct InvalidVersion;

impl PluginVersion {
    /// Its text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its text, for the row.
    #[must_use]
    pub fn into_string(self) -> String {
        self.0
    }
}

impl FromStr for PluginVersion {
    type Err = InvalidVersion;

    fn from_str(text: &str) -> Result<Self, InvalidVersion> {
        if text.len() > MAX_BYTES || text.chars().any(char::is_control) {
            return Err(InvalidVersion);
        }
        Ok(Self(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_short_and_printable() {
        for good in ["", "0.1.0", &"x".repeat(64)] {
            assert_eq!(good.parse::<PluginVersion>().unwrap().into_string(), good);
        }
        for bad in [&"x".repeat(65), "1\n2", "\0"] {
            assert!(bad.parse::<PluginVersion>().is_err());
        }
    }
}
