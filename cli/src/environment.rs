//! What the command line takes from the environment, read once so that tests can give their own.

use std::{ffi::OsString, path::PathBuf};

/// The variables that `attache` reads. An empty variable counts as absent.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    /// `ATTACHE_CONFIG`: the settings file.
    pub config: Option<OsString>,
    /// `ATTACHE_CONTEXT`: which context of it.
    pub context: Option<OsString>,
    /// `XDG_CONFIG_HOME`.
    pub xdg_config_home: Option<OsString>,
    /// `HOME`.
    pub home: Option<OsString>,
    /// `NO_COLOR`: any value that is not empty.
    pub no_color: bool,
}

impl Environment {
    /// The environment of this process.
    #[must_use]
    pub fn of_process() -> Self {
        let read = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        Self {
            config: read("ATTACHE_CONFIG"),
            context: read("ATTACHE_CONTEXT"),
            xdg_config_home: read("XDG_CONFIG_HOME"),
            home: read("HOME"),
            no_color: read("NO_COLOR").is_some(),
        }
    }

    /// Where the settings are: `$ATTACHE_CONFIG`, else `$XDG_CONFIG_HOME/attache/config.toml`, else
    /// `$HOME/.config/attache/config.toml`.
    #[must_use]
    pub fn config_file(&self) -> Option<PathBuf> {
        if let Some(file) = &self.config {
            return Some(PathBuf::from(file));
        }
        let folder = match (&self.xdg_config_home, &self.home) {
            (Some(xdg), _) => PathBuf::from(xdg),
            (None, Some(home)) => PathBuf::from(home).join(".config"),
            (None, None) => return None,
        };
        Some(folder.join("attache/config.toml"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_variable_names_the_file() {
        let mut environment = Environment {
            config: Some("/a/b.toml".into()),
            xdg_config_home: Some("/x".into()),
            home: Some("/h".into()),
            ..Environment::default()
        };
        assert_eq!(environment.config_file(), Some("/a/b.toml".into()));
        environment.config = None;
        assert_eq!(
            environment.config_file(),
            Some("/x/attache/config.toml".into())
        );
        environment.xdg_config_home = None;
        assert_eq!(
            environment.config_file(),
            Some("/h/.config/attache/config.toml".into())
        );
        environment.home = None;
        assert_eq!(environment.config_file(), None);
    }
}
