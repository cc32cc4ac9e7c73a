//! A second enrollment that waits for an operator: one key of one node, once, and not for ever.
//!
//! ```text
//! id        = first 16 hex digits of SHA-256(LP("attache/approval/1", node, spki 32))
//! approval  = record || node, node's name, spki 32, evidence, asked u64, not after u64, decision [(word, by, at u64)] (0 or 1)
//!
//! asked -> waiting, a day -> approved, an hour -> used by that key, and gone
//!                         -> rejected, what is left of the day
//! ```
//! The node asks again and again with the key that is in its state folder, so the row is found by that key. Whoever asks
//! with another key asks for something else.

use attache_envelope::{
    EnvelopeError,
    lp::{Fault, Lp, Malformed, Reader},
};
use attache_mtls::identity::SpkiSha256;
use jiff::{SignedDuration, Timestamp};
use sha2::{Digest, Sha256};

use super::rows::{ms, read, text, time};

/// How long a request waits, and a rejection stands.
pub const WAITS_FOR: SignedDuration = SignedDuration::from_hours(24);
/// How long an approval can be used: a plugin asks again within a minute, and its machine may be starting.
pub const APPROVED_FOR: SignedDuration = SignedDuration::from_hours(1);
/// Hexadecimal digits of an id.
pub const ID_DIGITS: usize = 16;

/// What an operator has said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The key may be enrolled.
    Approved,
    /// It may not.
    Rejected,
}

impl Verdict {
    /// The word in rows and listings.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Approved => "approved",
            Self::Rejected => "rejected",
        }
    }
}

/// A decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// What.
    pub verdict: Verdict,
    /// Whose, as a SPIFFE ID.
    pub by: String,
    /// When.
    pub at: Timestamp,
}

/// A second enrollment of a live node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApprovalRecord {
    /// The node's SPIFFE ID.
    pub node: String,
    /// Its Node object's name.
    pub name: String,
    /// The key that asked.
    pub spki: SpkiSha256,
    /// What it showed.
    pub evidence: String,
    /// When it first asked.
    pub asked: Timestamp,
    /// Until when this stands.
    pub not_after: Timestamp,
    /// What an operator has said of it.
    pub decision: Option<Decision>,
}

impl ApprovalRecord {
    /// The id of what this node asks for with this key.
    #[must_use]
    pub fn id_of(node: &str, spki: SpkiSha256) -> String {
        let lp = Lp::labelled("attache/approval/1")
            .str(node)
            .bytes(spki.as_bytes());
        let mut id = hex::encode(Sha256::digest(lp.as_bytes()));
        id.truncate(ID_DIGITS);
        id
    }

    /// Its own id.
    #[must_use]
    pub fn id(&self) -> String {
        Self::id_of(&self.node, self.spki)
    }

    /// Whether it is over: as if it were not there.
    #[must_use]
    pub fn is_over(&self, now: Timestamp) -> bool {
        now > self.not_after
    }

    /// What was said.
    #[must_use]
    pub fn verdict(&self) -> Option<Verdict> {
        self.decision.as_ref().map(|decision| decision.verdict)
    }

    /// The word in listings: `waiting`, `approved`, `rejected`.
    #[must_use]
    pub fn state(&self) -> &'static str {
        self.verdict().map_or("waiting", Verdict::name)
    }

    /// As it stands once this is decided. A rejection stands as long as the request would have waited.
    #[must_use]
    pub fn decided(self, decision: Decision) -> Self {
        let (from, lasts) = match decision.verdict {
            Verdict::Approved => (decision.at, APPROVED_FOR),
            Verdict::Rejected => (self.asked, WAITS_FOR),
        };
        Self {
            not_after: from.saturating_add(lasts).unwrap_or(Timestamp::MAX),
            decision: Some(decision),
            ..self
        }
    }

    /// The row's body.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let decision = self.decision.as_ref().map(|decision| {
            Lp::new()
                .str(decision.verdict.name())
                .str(&decision.by)
                .u64(ms(decision.at))
        });
        Lp::record()
            .str(&self.node)
            .str(&self.name)
            .bytes(self.spki.as_bytes())
            .str(&self.evidence)
            .u64(ms(self.asked))
            .u64(ms(self.not_after))
            .list(Vec::from_iter(decision))
            .into_bytes()
    }

    /// Reads a row's body.
    ///
    /// # Errors
    /// [`EnvelopeError`] when it is not exactly one record of this kind.
    pub fn decode(body: &[u8]) -> Result<Self, EnvelopeError> {
        read("approval", body, |r| {
            Ok(Self {
                node: text(r, "node")?,
                name: text(r, "node name")?,
                spki: SpkiSha256::from_bytes(r.array("spki")?),
                evidence: text(r, "evidence")?,
                asked: time(r, "asked")?,
                not_after: time(r, "not after")?,
                decision: r.list("decision", 1, decision)?.pop(),
            })
        })
    }
}

fn decision(r: &mut Reader<'_>) -> Result<Decision, Malformed> {
    let verdict = match text(r, "verdict")?.as_str() {
        "approved" => Verdict::Approved,
        "rejected" => Verdict::Rejected,
        _ => return Err(Malformed::new("verdict", Fault::Unknown)),
    };
    Ok(Decision {
        verdict,
        by: text(r, "by")?,
        at: time(r, "at")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vectors::{Expected, run};

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_millisecond(ms).unwrap()
    }

    fn waiting() -> ApprovalRecord {
        ApprovalRecord {
            node: "spiffe://example.internal/node/local/n1".into(),
            name: "node-a".into(),
            spki: SpkiSha256::from_bytes([1; 32]),
            evidence: "join-token aa".into(),
            asked: at(1000),
            not_after: at(1000) + WAITS_FOR,
            decision: None,
        }
    }

    fn said(verdict: Verdict) -> Decision {
        Decision {
            verdict,
            by: "spiffe://example.internal/operator/ada".into(),
            at: at(5000),
        }
    }

    #[test]
    fn an_approval_stands_an_hour_and_a_rejection_the_rest_of_the_day() {
        let approved = waiting().decided(said(Verdict::Approved));
        let end = at(5000) + APPROVED_FOR;
        assert!(!approved.is_over(end));
        assert!(approved.is_over(end + SignedDuration::from_millis(1)));
        let rejected = approved.decided(said(Verdict::Rejected));
        assert_eq!(rejected.not_after, at(1000) + WAITS_FOR);
        assert_eq!(rejected.state(), "rejected");
        assert_eq!(waiting().state(), "waiting");
    }

    #[test]
    fn each_key_of_each_node_has_an_id_of_its_own() {
        let one = waiting();
        let other_key = ApprovalRecord::id_of(&one.node, SpkiSha256::from_bytes([2; 32]));
        let other_node = ApprovalRecord::id_of("spiffe://example.internal/node/local/n2", one.spki);
        assert_eq!(one.id().len(), ID_DIGITS);
        assert!(one.id() != other_key && one.id() != other_node && other_key != other_node);
    }

    #[test]
    fn a_cut_or_longer_body_is_refused() {
        let body = waiting().decided(said(Verdict::Approved)).encode();
        for end in 0..body.len() {
            assert!(
                ApprovalRecord::decode(&body[..end]).is_err(),
                "cut at {end}"
            );
        }
        assert!(ApprovalRecord::decode(&[body.as_slice(), &[0]].concat()).is_err());
        let text = String::from_utf8_lossy(&body).replace("approved", "approvex");
        assert!(ApprovalRecord::decode(text.as_bytes()).is_err());
    }

    #[test]
    fn rows_are_those_of_the_vectors() {
        run("approval-body", false, |given, expected| {
            let Expected::Out(out) = expected else {
                panic!("a row refuses nothing here")
            };
            let told_at = |name| at(given.u64(name).try_into().unwrap());
            let decision = given.object("decision").map(|decision| Decision {
                verdict: match decision.text("verdict") {
                    "approved" => Verdict::Approved,
                    _ => Verdict::Rejected,
                },
                by: decision.text("by").into(),
                at: at(decision.u64("at").try_into().unwrap()),
            });
            let told = ApprovalRecord {
                node: given.text("node").into(),
                name: given.text("name").into(),
                spki: SpkiSha256::from_bytes(given.array("spki")),
                evidence: given.text("evidence").into(),
                asked: told_at("asked"),
                not_after: told_at("not_after"),
                decision,
            };
            let body = out.bytes("body");
            assert_eq!(ApprovalRecord::decode(&body).unwrap(), told);
            assert_eq!(told.encode(), body);
            assert_eq!(told.id().as_bytes(), out.bytes("key"));
        });
    }
}
