//! `attache-broker check-config`, and `check-store`: through the running broker, else on the store itself, whose lock it
//! takes.

use std::{io::Write, process::ExitCode};

use anyhow::{Context, Result};
use attache_proto::attache::v1 as pb;
use pb::admin_client::AdminClient;

use super::{
    block_on,
    bootstrap::{admin_channel, refused},
    open, telemetry,
};
use crate::{config::Config, vault};

/// What a check prints when it found something.
const FOUND: u8 = 8;

/// Judges what only its user can of settings that were read: the log filter.
///
/// # Errors
/// When it cannot be read.
pub fn check_config(config: &Config) -> Result<()> {
    telemetry::parse(&config.telemetry.log).map(drop)
}

/// Checks every row, prints what it found, and answers 0 or 8.
///
/// # Errors
/// When neither a broker answers nor the store opens.
pub fn check_store(config: &Config) -> Result<ExitCode> {
    block_on(async {
        let report = match admin_channel(config).await {
            Ok(channel) => AdminClient::new(channel)
                .check_store(pb::CheckStoreRequest {})
                .await
                .map_err(|status| refused(&status))?
                .into_inner(),
            Err(_) => offline(config)
                .await
                .context("no broker answers on the admin socket")?,
        };
        print(&report)
    })
}

async fn offline(config: &Config) -> Result<pb::CheckStoreResponse> {
    let arena = open::arena(config)?;
    let (store, keys) = open::store(config, &arena).await?;
    let report = vault::check_store(store.as_ref(), &keys).await?;
    Ok(report.into())
}

fn print(report: &pb::CheckStoreResponse) -> Result<ExitCode> {
    let mut out = std::io::stdout();
    for finding in &report.findings {
        writeln!(
            out,
            "{} {}: {}",
            finding.table, finding.key, finding.problem
        )?;
    }
    writeln!(
        out,
        "checked {} rows and {} payloads at sequence {}: {} findings",
        report.rows,
        report.payloads,
        report.seq,
        report.findings.len()
    )?;
    Ok(if report.findings.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(FOUND)
    })
}
