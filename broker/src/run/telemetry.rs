//! Logs: one line an event on standard error, text or JSON, filtered, the filter changeable while running.

use anyhow::Result;
use tracing_subscriber::{
    EnvFilter, Registry, fmt,
    layer::SubscriberExt,
    reload::{self, Handle},
    util::SubscriberInitExt,
};

use crate::config::Telemetry;

/// Changes the filter of a running process.
pub(super) type Filter = Handle<EnvFilter, Registry>;

/// Starts logging.
pub(super) fn start(telemetry: &Telemetry) -> Result<Filter> {
    let (filter, handle) = reload::Layer::new(parse(&telemetry.log)?);
    let registry = tracing_subscriber::registry().with(filter);
    if telemetry.json {
        registry
            .with(fmt::layer().json().with_writer(std::io::stderr))
            .try_init()?;
    } else {
        registry
            .with(fmt::layer().with_ansi(false).with_writer(std::io::stderr))
            .try_init()?;
    }
    Ok(handle)
}

/// A filter from its text.
pub(super) fn parse(text: &str) -> Result<EnvFilter> {
    // The parser's words have their source's in them already.
    EnvFilter::try_new(text).map_err(|error| {
        anyhow::anyhow!(
            "telemetry.log is no log filter: a level (info), or module=level pairs: {error}"
        )
    })
}
