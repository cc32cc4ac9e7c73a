//! The rows of which a store has one, beside the keyring: the CA certificate.
//!
//! ```text
//! meta "ca" = record || certificate DER
//! ```

use anyhow::{Context, Result};
use attache_envelope::lp::Lp;
use attache_mtls::CertificateDer;

use crate::{
    identity::read,
    store::{Change, Ledger, Store, Table},
};

const CA: &str = "ca";
/// A CA certificate is never larger, in bytes.
const CA_MAX: usize = 16 * 1024;

/// Adds the CA certificate to the rows of a new store.
pub(super) fn put_ca(change: &mut Change, certificate: &CertificateDer<'_>) {
    change.require_absent(Table::Meta, CA);
    change.put(
        Table::Meta,
        CA,
        Lp::record().bytes(certificate.as_ref()).into_bytes(),
    );
}

/// The CA certificate of a store.
pub(super) async fn ca<S: Store>(ledger: &Ledger<S>) -> Result<CertificateDer<'static>> {
    let row = ledger.read(Table::Meta, CA.as_bytes()).await?;
    let row = row.context(
        "the store has no CA certificate: its init was cut short; remove it and run init again",
    )?;
    let der = read("ca", &row.body, |r| {
        r.bytes_up_to("certificate", CA_MAX).map(<[u8]>::to_vec)
    })?;
    Ok(CertificateDer::from(der))
}
