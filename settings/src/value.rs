//! Checked values, and the typed ways to take them.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, time::Duration};

use crate::SettingsError;

/// A value that its key's kind has accepted.
pub(crate) enum Value {
    Text(String),
    Address(SocketAddr),
    Integer(i64),
    Flag(bool),
}

/// The checked settings of one file. It has no `Debug`: a value is nobody's business but its reader's.
pub struct Settings {
    values: BTreeMap<&'static str, Value>,
}

impl Settings {
    pub(crate) fn new(values: BTreeMap<&'static str, Value>) -> Self {
        Self { values }
    }

    /// A text or a word that must be there.
    ///
    /// # Errors
    /// [`SettingsError::Undeclared`] when the schema has no such key with this type, here and below.
    pub fn text(&self, key: &str) -> Result<&str, SettingsError> {
        self.optional_text(key)?.ok_or_else(|| undeclared(key))
    }

    /// A text that may be absent.
    ///
    /// # Errors
    /// As [`Settings::text`].
    pub fn optional_text(&self, key: &str) -> Result<Option<&str>, SettingsError> {
        match self.values.get(key) {
            Some(Value::Text(text)) => Ok(Some(text)),
            None => Ok(None),
            Some(Value::Address(_) | Value::Integer(_) | Value::Flag(_)) => Err(undeclared(key)),
        }
    }

    /// A path.
    ///
    /// # Errors
    /// As [`Settings::text`].
    pub fn path(&self, key: &str) -> Result<PathBuf, SettingsError> {
        self.text(key).map(PathBuf::from)
    }

    /// A path that may be absent.
    ///
    /// # Errors
    /// As [`Settings::text`].
    pub fn optional_path(&self, key: &str) -> Result<Option<PathBuf>, SettingsError> {
        Ok(self.optional_text(key)?.map(PathBuf::from))
    }

    /// An IP address with its port.
    ///
    /// # Errors
    /// As [`Settings::text`].
    pub fn address(&self, key: &str) -> Result<SocketAddr, SettingsError> {
        match self.values.get(key) {
            Some(Value::Address(address)) => Ok(*address),
            Some(Value::Text(_) | Value::Integer(_) | Value::Flag(_)) | None => {
                Err(undeclared(key))
            }
        }
    }

    /// An IP address with its port, that may be absent.
    ///
    /// # Errors
    /// As [`Settings::text`].
    pub fn optional_address(&self, key: &str) -> Result<Option<SocketAddr>, SettingsError> {
        match self.values.get(key) {
            Some(Value::Address(address)) => Ok(Some(*address)),
            None => Ok(None),
            Some(Value::Text(_) | Value::Integer(_) | Value::Flag(_)) => Err(undeclared(key)),
        }
    }

    /// A whole number, in the type that the caller counts in.
    ///
    /// # Errors
    /// As [`Settings::text`]; also when the schema's bounds are wider than the caller's type.
    pub fn integer<T: TryFrom<i64>>(&self, key: &str) -> Result<T, SettingsError> {
        match self.values.get(key) {
            Some(Value::Integer(n)) => T::try_from(*n).map_err(|_| undeclared(key)),
            Some(Value::Text(_) | Value::Address(_) | Value::Flag(_)) | None => {
                Err(undeclared(key))
            }
        }
    }

    /// A whole number of seconds.
    ///
    /// # Errors
    /// As [`Settings::integer`].
    pub fn seconds(&self, key: &str) -> Result<Duration, SettingsError> {
        self.integer(key).map(Duration::from_secs)
    }

    /// `true` or `false`.
    ///
    /// # Errors
    /// As [`Settings::text`].
    pub fn flag(&self, key: &str) -> Result<bool, SettingsError> {
        match self.values.get(key) {
            Some(Value::Flag(flag)) => Ok(*flag),
            Some(Value::Text(_) | Value::Address(_) | Value::Integer(_)) | None => {
                Err(undeclared(key))
            }
        }
    }
}

fn undeclared(key: &str) -> SettingsError {
    SettingsError::Undeclared(key.to_owned())
}
