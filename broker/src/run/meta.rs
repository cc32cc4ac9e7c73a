//! The rows of which a store has one, beside the keyring: the CA certificate.
//!
//! ```text
//! meta "ca" = record || certificate DER
//! ```

use anyhow::{Context, Result};
use attache_envelope::{EnvelopeError, lp::Lp};
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
    change.put(Table::Meta, CA, encode(certificate));
}

fn encode(certificate: &CertificateDer<'_>) -> Vec<u8> {
    Lp::record().bytes(certificate.as_ref()).into_bytes()
}

fn decode(body: &[u8]) -> Result<CertificateDer<'static>, EnvelopeError> {
    let der = read("ca", body, |r| {
        r.bytes_up_to("certificate", CA_MAX).map(<[u8]>::to_vec)
    })?;
    Ok(CertificateDer::from(der))
}

/// The CA certificate of a store.
pub(super) async fn ca<S: Store>(ledger: &Ledger<S>) -> Result<CertificateDer<'static>> {
    let row = ledger.read(Table::Meta, CA.as_bytes()).await?;
    let row = row.context(
        "the store has no CA certificate: its init was cut short; remove it and run init again",
    )?;
    Ok(decode(&row.body)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vectors::{Expected, run};

    #[test]
    fn the_row_is_that_of_the_vectors() {
        run("ca", false, |given, expected| {
            let Expected::Out(out) = expected else {
                panic!("a row refuses nothing here")
            };
            let certificate = CertificateDer::from(given.bytes("certificate"));
            assert_eq!(CA.as_bytes(), out.bytes("key"));
            assert_eq!(encode(&certificate), out.bytes("body"));
            assert_eq!(decode(&out.bytes("body")).unwrap(), certificate);
        });
    }
}
