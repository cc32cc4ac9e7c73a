//! The settings: one TOML file, typed before the module is loaded.

use std::path::{Path, PathBuf};

use attache_settings::{Fallback, Key, Kind, Schema, SettingsError};

/// Every key of `kms-pkcs11.toml`.
pub const SCHEMA: Schema = Schema {
    keys: &[
        Key {
            path: "socket",
            kind: Kind::Path,
            fallback: Fallback::Required,
            help: "the unix socket of the plugin, the broker's keys.kms_socket: whoever may open it has what the token decrypts",
        },
        Key {
            path: "token.module",
            kind: Kind::Path,
            fallback: Fallback::Required,
            help: "the vendor's PKCS#11 module (a shared library)",
        },
        Key {
            path: "token.label",
            kind: Kind::Text,
            fallback: Fallback::Required,
            help: "the token's label",
        },
        Key {
            path: "token.key",
            kind: Kind::Text,
            fallback: Fallback::Default("attache"),
            help: "the label of the AES key in it; create-key makes it",
        },
        Key {
            path: "token.pin_file",
            kind: Kind::Path,
            fallback: Fallback::Required,
            help: "file with the PIN of the token's user: of this process's own user, closed to others; a newline at its end is not of the PIN",
        },
        Key {
            path: "telemetry.log",
            kind: Kind::Text,
            fallback: Fallback::Default("info"),
            help: "log filter: a level, or module=level pairs",
        },
    ],
};

/// The typed settings.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where the plugin listens.
    pub socket: PathBuf,
    /// Which key of which token.
    pub token: TokenSettings,
    /// The log's filter.
    pub log: String,
}

/// A key, by where it is.
#[derive(Debug, Clone)]
pub struct TokenSettings {
    /// The module.
    pub module: PathBuf,
    /// The token's label.
    pub label: String,
    /// The key's label.
    pub key: String,
    /// The file with the PIN.
    pub pin_file: PathBuf,
}

impl Config {
    /// Reads a settings file.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn read(file: &Path) -> Result<Self, SettingsError> {
        let settings = SCHEMA.read(file)?;
        Ok(Self {
            socket: settings.path("socket")?,
            token: TokenSettings {
                module: settings.path("token.module")?,
                label: settings.text("token.label")?.to_owned(),
                key: settings.text("token.key")?.to_owned(),
                pin_file: settings.path("token.pin_file")?,
            },
            log: settings.text("telemetry.log")?.to_owned(),
        })
    }
}
