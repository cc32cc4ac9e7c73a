//! An operator's one-time code, as the store keeps it.
//!
//! ```text
//! operator-code = record || hash 32, operator's name, not after u64, by, [spki 32] (0 or 1)         under the code's id 16
//! ```
//! The key that used it stays in the row until the code is over: an answer that was lost is given again, to that key alone.

use attache_envelope::{EnvelopeError, lp::Lp};
use attache_mtls::identity::SpkiSha256;
use jiff::Timestamp;

use super::{
    one_time::TokenHash,
    rows::{ms, read, text, time},
};

/// A code.
#[derive(Clone, PartialEq, Eq)]
pub struct OperatorCodeRecord {
    /// Of its secret.
    pub hash: TokenHash,
    /// The operator's name.
    pub name: String,
    /// Until when.
    pub not_after: Timestamp,
    /// The operator who made it, as a SPIFFE ID.
    pub by: String,
    /// The key that has used it.
    pub used: Option<SpkiSha256>,
}

impl OperatorCodeRecord {
    /// The row's body.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let used = self.used.as_ref();
        let used = used.map(|spki| Lp::new().bytes(spki.as_bytes()));
        Lp::record()
            .bytes(&self.hash.0)
            .str(&self.name)
            .u64(ms(self.not_after))
            .str(&self.by)
            .list(Vec::from_iter(used))
            .into_bytes()
    }

    /// Reads a row's body.
    ///
    /// # Errors
    /// [`EnvelopeError`] when it is not exactly one record of this kind.
    pub fn decode(body: &[u8]) -> Result<Self, EnvelopeError> {
        read("operator-code", body, |r| {
            Ok(Self {
                hash: TokenHash(r.array("hash")?),
                name: text(r, "name")?,
                not_after: time(r, "not after")?,
                by: text(r, "by")?,
                used: r
                    .list("used", 1, |r| r.array("spki").map(SpkiSha256::from_bytes))?
                    .pop(),
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vectors::{Expected, run};

    #[test]
    fn rows_are_those_of_the_vectors_and_no_others() {
        run("operator-code-body", false, |given, expected| {
            let Expected::Out(out) = expected else {
                panic!("a row refuses nothing here")
            };
            let not_after = given.u64("not_after").try_into().unwrap();
            let used = given.value("used").is_string();
            let told = OperatorCodeRecord {
                hash: TokenHash(given.array("hash")),
                name: given.text("name").into(),
                not_after: Timestamp::from_millisecond(not_after).unwrap(),
                by: given.text("by").into(),
                used: used.then(|| SpkiSha256::from_bytes(given.array("used"))),
            };
            let body = out.bytes("body");
            assert!(OperatorCodeRecord::decode(&body).unwrap() == told);
            assert_eq!(told.encode(), body);
            for end in 0..body.len() {
                assert!(
                    OperatorCodeRecord::decode(&body[..end]).is_err(),
                    "cut at {end}"
                );
            }
            assert!(OperatorCodeRecord::decode(&[body.as_slice(), &[0]].concat()).is_err());
        });
    }
}
