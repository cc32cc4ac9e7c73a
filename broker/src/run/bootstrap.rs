//! `attache-broker bootstrap operator`: the first operator's certificate, through the admin socket; a later one's, by
//! recovery, on the store itself, which opens for nobody without slot material.

use std::{
    io::{Read, Write},
    path::Path,
    process::ExitCode,
};

use anyhow::{Context, Result};
use attache_mtls::{
    CertificateDer, ca::CertificateRequest, pem, public_file::read_public, spiffe::OperatorId,
};
use attache_proto::attache::v1 as pb;
use pb::admin_client::AdminClient;
use tonic::transport::{Channel, Endpoint};

use super::{block_on, serve::Broker};
use crate::config::Config;

/// A certificate request is never larger, in bytes.
const CSR_MAX: u64 = 16 * 1024;

/// Reads a certificate request, PEM, as DER; from standard input for `-`.
fn read_request(csr: &Path) -> Result<Vec<u8>> {
    let read = if csr == Path::new("-") {
        read_input()
    } else {
        read_public(csr, CSR_MAX)
    };
    let text = read.with_context(|| {
        format!(
            "cannot read {}: is it the certificate request that attache login --new wrote?",
            csr.display()
        )
    })?;
    pem::certificate_request(&text).with_context(|| {
        format!(
            "{} is no certificate request in PEM; make one with attache login --new",
            csr.display()
        )
    })
}

fn read_input() -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    std::io::stdin().take(CSR_MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn print_chain(chain: &[CertificateDer<'static>]) -> Result<ExitCode> {
    std::io::stdout().write_all(pem::encode_certificates(chain).as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

/// Has a certificate request signed for the first operator; the chain goes to standard output.
///
/// # Errors
/// When no broker answers, an operator exists, or the request is no good.
pub fn bootstrap_operator(config: &Config, name: &str, csr: &Path) -> Result<ExitCode> {
    let csr = read_request(csr)?;
    block_on(async {
        let channel = admin_channel(config).await?;
        let request = pb::BootstrapOperatorRequest {
            name: name.to_owned(),
            csr,
        };
        let answer = AdminClient::new(channel)
            .bootstrap_operator(request)
            .await
            .map_err(|status| refused(&status))?;
        let certificate = answer
            .into_inner()
            .certificate
            .context("the broker answered without a certificate")?;
        let chain: Vec<CertificateDer<'static>> = certificate
            .chain
            .into_iter()
            .map(CertificateDer::from)
            .collect();
        print_chain(&chain)
    })
}

/// Signs an operator in whoever there is already; the chain goes to standard output. The broker must be stopped.
///
/// # Errors
/// When the broker runs, the key file does not open its store, the operator is banned, or the request is no good.
pub fn recover_operator(config: Config, name: &str, csr: &Path) -> Result<ExitCode> {
    let request = CertificateRequest::verify(&read_request(csr)?)
        .with_context(|| format!("{} does not do", csr.display()))?;
    let id =
        OperatorId::new(config.id.trust_domain().clone(), name).context("the operator's name")?;
    block_on(async {
        let broker = Broker::open(config).await.context(
            "recovery opens the store itself: stop the broker, and start it again afterwards",
        )?;
        let issued = broker.services.gate.recover_operator(id, request).await;
        broker.close().await;
        print_chain(&issued?.chain())
    })
}

/// What the running broker answered, with the id by which its log names the call.
pub(super) fn refused(status: &tonic::Status) -> anyhow::Error {
    let id = status.metadata().get(crate::api::calls::HEADER);
    match id.and_then(|id| id.to_str().ok()) {
        Some(id) => anyhow::anyhow!("{}\n  request: {id}", status.message()),
        None => anyhow::anyhow!("{}", status.message()),
    }
}

/// A channel to the running broker's admin socket.
pub(super) async fn admin_channel(config: &Config) -> Result<Channel> {
    let socket = config.listen.admin.display();
    Endpoint::try_from(format!("unix:{socket}"))?
        .connect()
        .await
        .with_context(|| {
            format!(
                "no broker answers on {socket}: start it with attache-broker serve, on this machine"
            )
        })
}
