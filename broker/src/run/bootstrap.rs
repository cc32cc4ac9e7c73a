//! `attache-broker bootstrap operator`: the first operator's certificate, through the admin socket.

use std::{fs, io::Write, path::Path, process::ExitCode};

use anyhow::{Context, Result, bail};
use attache_mtls::{CertificateDer, pem};
use attache_proto::attache::v1 as pb;
use pb::admin_client::AdminClient;
use tonic::transport::{Channel, Endpoint};

use super::block_on;
use crate::config::Config;

/// A certificate request is never larger, in bytes.
const CSR_MAX: u64 = 16 * 1024;

/// Has a certificate request signed for the first operator; the chain goes to standard output.
///
/// # Errors
/// When no broker answers, an operator exists, or the request is no good.
pub fn bootstrap_operator(config: &Config, name: &str, csr: &Path) -> Result<ExitCode> {
    let size = fs::metadata(csr)
        .with_context(|| format!("cannot read {}", csr.display()))?
        .len();
    if size > CSR_MAX {
        bail!(
            "{} is larger than {CSR_MAX} bytes; is it a certificate request?",
            csr.display()
        );
    }
    let text = fs::read(csr).with_context(|| format!("cannot read {}", csr.display()))?;
    let csr = pem::certificate_request(&text)
        .context("the certificate request is not PEM; make one with attache login --new")?;
    block_on(async {
        let channel = admin_channel(config).await?;
        let request = pb::BootstrapOperatorRequest {
            name: name.to_owned(),
            csr,
        };
        let answer = AdminClient::new(channel)
            .bootstrap_operator(request)
            .await
            .map_err(|s| anyhow::anyhow!("{}", s.message().to_owned()))?;
        let certificate = answer
            .into_inner()
            .certificate
            .context("the broker answered without a certificate")?;
        let chain: Vec<CertificateDer<'_>> = certificate
            .chain
            .into_iter()
            .map(CertificateDer::from)
            .collect();
        std::io::stdout().write_all(pem::encode_certificates(chain.iter()).as_bytes())?;
        Ok(ExitCode::SUCCESS)
    })
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
