//! Puts in number: sealed as the command line seals them, ahead of time, and committed side by side.

use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, ensure};
use attache_cli::{
    fields::FieldValue,
    put::{Begun, Plan, seal, wire_path},
};
use attache_proto::attache::v1::{self as pb, secrets_client::SecretsClient};
use tonic::transport::Channel;
use zeroize::Zeroizing;

use crate::{
    bed::TRUST_DOMAIN,
    measure::{Run, load},
};

/// Puts of `count` new secrets `payments/PREFIX-NUMBER`, one field of 1 KiB each, ready to be sent by operator `ada`.
///
/// # Errors
/// When the broker does not begin a put, or one cannot be sealed.
pub async fn seal_puts(
    channel: Channel,
    prefix: &str,
    count: u64,
) -> Result<Vec<pb::CommitPutRequest>> {
    seal_puts_of(channel, "payments", prefix, count).await
}

/// As [`seal_puts`], in another keyspace.
///
/// # Errors
/// As [`seal_puts`].
pub async fn seal_puts_of(
    channel: Channel,
    keyspace: &str,
    prefix: &str,
    count: u64,
) -> Result<Vec<pb::CommitPutRequest>> {
    let operator = format!("spiffe://{TRUST_DOMAIN}/operator/ada");
    let broker = format!("spiffe://{TRUST_DOMAIN}/broker/broker-0");
    let plan = |number| -> Result<Plan> {
        Ok(Plan {
            path: format!("{keyspace}/{prefix}-{number}").parse()?,
            values: vec![FieldValue {
                field: "value".parse()?,
                value: Zeroizing::new(vec![7; 1024]),
            }],
            replace: false,
            expect_version: None,
            dry_run: false,
        })
    };
    let asked = pb::BeginPutRequest {
        path: Some(wire_path(&plan(0)?.path)),
    };
    let answer = SecretsClient::new(channel).begin_put(asked).await?;
    // The names are all new: what one of them begins with is what each does.
    let begun = Begun::check(&answer.into_inner(), &broker).map_err(anyhow::Error::msg)?;
    (0..count)
        .map(|number| Ok(seal(&operator, &broker, &begun, &plan(number)?)?.1))
        .collect()
}

/// Sends puts of new secrets, `callers` at a time.
///
/// # Errors
/// The first answer that is not version 1.
pub async fn commit_puts(
    channel: Channel,
    callers: u64,
    sealed: Vec<pb::CommitPutRequest>,
) -> Result<Run> {
    let count = sealed.len() as u64;
    let queue = Arc::new(Mutex::new(sealed.into_iter()));
    load(callers, count, move |_| {
        let mut client = SecretsClient::new(channel.clone());
        let request = queue.lock().ok().and_then(|mut it| it.next());
        async move {
            let request = request.context("each put is sent once")?;
            let answer = client.commit_put(request).await?.into_inner();
            ensure!(answer.version == 1, "a new secret begins with version 1");
            Ok(())
        }
    })
    .await
}
