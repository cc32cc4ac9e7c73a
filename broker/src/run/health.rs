//! `attache-broker health`: asks the running broker over its admin socket, for whoever starts and watches it.

use std::{io::Write, process::ExitCode, time::Duration};

use anyhow::{Context, Result};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use super::{
    block_on,
    bootstrap::{admin_channel, refused},
};
use crate::config::Config;

/// How long the broker may take to answer.
const PATIENCE: Duration = Duration::from_secs(4);
/// What it exits with when the broker answers and does not serve.
const NOT_SERVING: u8 = 8;

/// Prints what the broker's health says; 0 if it serves, or, where only `live` is asked, if it answers at all.
///
/// # Errors
/// When no broker answers.
pub fn health(config: &Config, live: bool) -> Result<ExitCode> {
    let asked = block_on(async {
        let asking = async {
            let mut client = HealthClient::new(admin_channel(config).await?);
            let answer = client.check(HealthCheckRequest::default()).await;
            let answer = answer.map_err(|status| refused(&status))?;
            anyhow::Ok(answer.into_inner().status())
        };
        tokio::time::timeout(PATIENCE, asking)
            .await
            .with_context(|| format!("the broker did not answer within {PATIENCE:?}"))?
    });
    let serves = asked? == ServingStatus::Serving;
    let told = if serves { "serving" } else { "not serving" };
    writeln!(std::io::stdout(), "{told}")?;
    Ok(if serves || live {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(NOT_SERVING)
    })
}
