//! Logs: one line an event on standard error, text or JSON, filtered; SIGHUP has the filter read again.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload::{self, Handle};
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{EnvFilter, Registry, fmt};

use crate::config::{Config, ConfigError, Telemetry};

/// Why nothing is logged.
#[derive(Debug, Error)]
pub enum TelemetryError {
    /// The log filter. The parser's words have their source's in them already.
    #[error("telemetry.log is no log filter: a level (info), or module=level pairs: {0}")]
    Filter(ParseError),
    /// Logs go somewhere already.
    #[error("logging cannot be set up")]
    SetUp(#[from] TryInitError),
    /// The settings cannot be read again.
    #[error("the settings cannot be read again")]
    Settings(#[from] ConfigError),
    /// Nothing filters any more: the process is ending.
    #[error("the log has no filter")]
    Gone(#[from] reload::Error),
}

/// The log's filter, and the settings file that it comes from.
pub struct LogFilter {
    file: PathBuf,
    /// The command line may have given it, and without it the file may be refused.
    node_name: String,
    handle: Handle<EnvFilter, Registry>,
}

impl LogFilter {
    /// Starts logging.
    ///
    /// # Errors
    /// [`TelemetryError`].
    pub fn start(config: &Config, file: &Path) -> Result<Self, TelemetryError> {
        let telemetry = &config.telemetry;
        let (filter, handle) = reload::Layer::new(parse(telemetry)?);
        let registry = tracing_subscriber::registry().with(filter);
        let lines = fmt::layer().with_writer(io::stderr).with_ansi(false);
        if telemetry.json {
            registry.with(lines.json()).try_init()?;
        } else {
            registry.with(lines).try_init()?;
        }
        Ok(Self {
            file: file.to_owned(),
            node_name: config.node.name.clone(),
            handle,
        })
    }

    /// Reads the filter again. One that cannot be read leaves the old one in place, and the log says why.
    pub fn reload(&self) {
        match self.read_again() {
            Ok(()) => tracing::info!("reloaded the log filter"),
            Err(error) => {
                let error = chain(&error);
                tracing::warn!(file = %self.file.display(), %error, "the log filter was not reloaded");
            }
        }
    }

    fn read_again(&self) -> Result<(), TelemetryError> {
        let config = Config::read(&self.file, Some(&self.node_name))?;
        Ok(self.handle.reload(parse(&config.telemetry)?)?)
    }
}

/// An error with what it came from, in one line: a JSON line would have its first words alone.
pub fn chain<'e>(error: &'e (dyn std::error::Error + 'static)) -> impl std::fmt::Display + 'e {
    Chain(error)
}

struct Chain<'e>(&'e (dyn std::error::Error + 'static));

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = self.0.source();
        while let Some(error) = source {
            write!(f, ": {error}")?;
            source = error.source();
        }
        Ok(())
    }
}

/// The filter of the settings.
///
/// # Errors
/// [`TelemetryError::Filter`].
pub fn parse(telemetry: &Telemetry) -> Result<EnvFilter, TelemetryError> {
    EnvFilter::try_new(&telemetry.log).map_err(TelemetryError::Filter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("this node has not joined")]
    struct Outer(#[source] io::Error);

    #[test]
    fn a_line_says_where_an_error_came_from() {
        let error = Outer(io::Error::other("connection refused"));
        let line = chain(&error).to_string();
        assert_eq!(line, "this node has not joined: connection refused");
    }
}
