//! `attache-broker unseal`: has the running broker, which is sealed, try what its settings name, at the word of somebody on
//! its machine.

use std::{io::Write, process::ExitCode};

use anyhow::Result;
use attache_proto::attache::v1 as pb;
use pb::admin_client::AdminClient;

use super::{
    block_on,
    bootstrap::{admin_channel, refused},
};
use crate::config::Config;

/// Has the broker opened; an operator's seal ends with that.
///
/// # Errors
/// When no broker answers, it is open, or nothing that its settings name opens a slot.
pub fn unseal(config: &Config) -> Result<ExitCode> {
    let slot = block_on(async {
        let mut client = AdminClient::new(admin_channel(config).await?);
        let answer = client.unseal_broker(pb::UnsealBrokerRequest {}).await;
        let answer = answer.map_err(|status| refused(&status))?;
        anyhow::Ok(answer.into_inner().slot)
    })?;
    writeln!(
        std::io::stdout(),
        "opened by the slot {slot}; its health says when it serves"
    )?;
    Ok(ExitCode::SUCCESS)
}
