//! The rows of which a store has one, beside the keyring.
//!
//! ```text
//! meta "ca"                = record || certificate DER
//! meta "ca-before"         = record || certificate DER, since u64     the CA before, while it is trusted
//! meta "incarnation"       = record || incarnation u32, begun u64, cause: `backup UUID` or `rollback`      none: the first one
//! meta "chain/BROKER ID"   = record || chain 16        the audit chain of that broker, where another one was lost
//! meta "readmission"       = record || not after u64, by       see `identity`
//! ```

use anyhow::{Context, Result};
use attache_envelope::{EnvelopeError, id::ChainId, lp::Lp};
use attache_mtls::{CertificateDer, spiffe::BrokerId};

use super::incarnation::Cause;
use crate::{
    identity::{CaCertificates, ca_rows, read},
    keys::Keys,
    store::{Change, Ledger, Store, Table},
};

const INCARNATION: &str = "incarnation";
/// Why an incarnation began is never longer, in bytes.
const CAUSE_MAX: usize = 128;

/// Adds the CA certificate to the rows of a new store.
pub(super) fn put_ca(change: &mut Change, certificate: &CertificateDer<'_>) {
    change.require_absent(Table::Meta, ca_rows::ACTIVE);
    change.put(Table::Meta, ca_rows::ACTIVE, ca_rows::encode(certificate));
}

/// The CA certificates of a store.
pub(super) async fn ca<S: Store>(ledger: &Ledger<S>) -> Result<CaCertificates> {
    let row = ledger.read(Table::Meta, ca_rows::ACTIVE.as_bytes()).await?;
    let row = row.context(
        "the store has no CA certificate: its init was cut short; remove it and run init again",
    )?;
    let before = ledger.read(Table::Meta, ca_rows::BEFORE.as_bytes()).await?;
    let before = before
        .map(|row| ca_rows::decode_before(&row.body))
        .transpose()?;
    Ok(CaCertificates {
        active: ca_rows::decode(&row.body)?,
        before,
    })
}

/// Adds what began an incarnation.
pub(super) fn put_incarnation(change: &mut Change, incarnation: u32, begun_ms: u64, cause: &Cause) {
    let body = encode_incarnation(incarnation, begun_ms, &cause.text());
    change.put(Table::Meta, INCARNATION, body);
}

fn encode_incarnation(incarnation: u32, begun_ms: u64, cause: &str) -> Vec<u8> {
    Lp::record()
        .u32(incarnation)
        .u64(begun_ms)
        .str(cause)
        .into_bytes()
}

fn decode_incarnation(body: &[u8]) -> Result<(u32, u64, String), EnvelopeError> {
    read("incarnation", body, |r| {
        let (incarnation, begun_ms) = (r.u32("incarnation")?, r.u64("begun")?);
        Ok((incarnation, begun_ms, r.str("cause", CAUSE_MAX)?.to_owned()))
    })
}

/// When the store's incarnation began, in milliseconds since 1970; none for the first.
pub(super) async fn incarnation_begun<S: Store>(ledger: &Ledger<S>) -> Result<Option<u64>> {
    let row = ledger.read(Table::Meta, INCARNATION.as_bytes()).await?;
    let row = row.map(|row| decode_incarnation(&row.body)).transpose()?;
    Ok(row.map(|(_, begun_ms, _)| begun_ms))
}

fn chain_key(broker: &BrokerId) -> String {
    format!("chain/{broker}")
}

/// Adds the chain that a broker's log has from here on.
pub(super) fn put_chain(change: &mut Change, broker: &BrokerId, chain: ChainId) {
    let body = Lp::record().id(chain).into_bytes();
    change.put(Table::Meta, chain_key(broker), body);
}

/// The chain of a broker's log, where it is not the one that it began with. The ledger is not open yet: the row's tag is
/// verified here.
pub(super) async fn chain<S: Store>(
    store: &S,
    keys: &Keys,
    broker: &BrokerId,
) -> Result<Option<ChainId>> {
    let key = chain_key(broker);
    let Some(stored) = store.get(Table::Meta, key.as_bytes()).await? else {
        return Ok(None);
    };
    let row = keys
        .row_codec()
        .verify(Table::Meta, key.as_bytes(), &stored)?;
    let chain = read("chain", &row.into_row().body, |r| r.id("chain"))?;
    Ok(Some(chain))
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::{
        identity::{READMISSION, Readmission},
        vectors::{Expected, run},
    };

    #[test]
    fn the_rows_are_those_of_the_vectors() {
        run("ca", false, |given, expected| {
            let Expected::Out(out) = expected else {
                panic!("a row refuses nothing here")
            };
            let (key, body) = (out.bytes("key"), out.bytes("body"));
            match given.text("row") {
                "ca" => {
                    let certificate = CertificateDer::from(given.bytes("certificate"));
                    assert_eq!(ca_rows::ACTIVE.as_bytes(), key);
                    assert_eq!(ca_rows::encode(&certificate), body);
                    assert_eq!(ca_rows::decode(&body).unwrap(), certificate);
                }
                "ca-before" => {
                    let certificate = CertificateDer::from(given.bytes("certificate"));
                    let begun = given.u64("begun");
                    assert_eq!(ca_rows::BEFORE.as_bytes(), key);
                    assert_eq!(ca_rows::encode_before(&certificate, begun), body);
                    let told = (certificate, begun);
                    assert_eq!(ca_rows::decode_before(&body).unwrap(), told);
                }
                "incarnation" => {
                    let (number, begun) = (given.u32("incarnation"), given.u64("begun"));
                    let cause = given.text("cause");
                    assert_eq!(INCARNATION.as_bytes(), key);
                    assert_eq!(encode_incarnation(number, begun, cause), body);
                    let decoded = decode_incarnation(&body).unwrap();
                    assert_eq!(decoded, (number, begun, cause.to_owned()));
                }
                "chain" => {
                    let mut change = Change::default();
                    put_chain(&mut change, &given.parse("broker"), given.id("chain"));
                    let put = change.puts.pop().unwrap();
                    assert_eq!((&put.key[..], &put.body[..]), (&key[..], &body[..]));
                }
                "readmission" => {
                    let not_after = i64::try_from(given.u64("not_after")).unwrap();
                    let told = Readmission {
                        not_after: Timestamp::from_millisecond(not_after).unwrap(),
                        by: given.text("by").into(),
                    };
                    assert_eq!(READMISSION.as_bytes(), key);
                    assert_eq!(told.encode(), body);
                    assert_eq!(Readmission::decode(&body).unwrap(), told);
                }
                other => panic!("a row of {other}"),
            }
        });
    }
}
