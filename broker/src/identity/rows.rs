//! The rows of nodes, operators, bans and join tokens: typed, strictly decoded.
//!
//! ```text
//! key         = LP(spki 32, serial text, not after u64, epoch of the CA u32)              a certified key
//! keys        = current key, next [key] (0 or 1), previous [(key, superseded u64)] (0 or 1)
//! identity    = record || name, keys, joined u64, renewed u64, version                    under the whole SPIFFE ID
//! operator    = record || role, keys, created u64, signed in u64                          under the operator's name
//! ban         = record || reason, by, at u64                                              under the whole SPIFFE ID
//! join-token  = record || hash 32, cluster, node name, node uid, not after u64, by        under the token's id 16
//! ```
//! `record` is format and suite; times are milliseconds since 1970. Nothing here is secret.

use attache_envelope::{
    EnvelopeError,
    lp::{Fault, Lp, Malformed, Reader},
};
use attache_mtls::{identity::SpkiSha256, renew::OPERATOR_RENEWS_FOR};
use jiff::Timestamp;

use super::{
    one_time::TokenHash,
    recorded::{RecordedKey, RecordedKeys},
};

/// The longest text in these rows, in bytes.
const TEXT_MAX: usize = 2048;

/// A node that has joined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeRecord {
    /// The Node object's name when it joined.
    pub name: String,
    /// Its live keys.
    pub keys: RecordedKeys,
    /// When it joined.
    pub joined: Timestamp,
    /// When it last renewed.
    pub renewed: Timestamp,
    /// What its plugin says of its version.
    pub version: String,
}

/// What an operator may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Everything.
    Admin,
}

impl Role {
    /// The word in rows and listings.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Admin => "admin",
        }
    }
}

/// An operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OperatorRecord {
    /// What they may do.
    pub role: Role,
    /// Their live keys.
    pub keys: RecordedKeys,
    /// When they were made.
    pub created: Timestamp,
    /// When they last signed in, which is when their key was certified by hand and not by a renewal.
    pub signed_in: Timestamp,
}

/// An identity that may do nothing, whatever certificate it shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BanRecord {
    /// Why.
    pub reason: String,
    /// Whose decision: an operator's SPIFFE ID, or the broker's.
    pub by: String,
    /// Since when.
    pub at: Timestamp,
}

/// A join token that nobody has redeemed.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinTokenRecord {
    /// Of the secret.
    pub hash: TokenHash,
    /// The cluster that it fixes.
    pub cluster: String,
    /// The node's name.
    pub node_name: String,
    /// The node's uid, read from the cluster when the token was made.
    pub node_uid: String,
    /// Until when.
    pub not_after: Timestamp,
    /// The operator who made it.
    pub by: String,
}

impl NodeRecord {
    /// The row's body.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let lp = write_keys(Lp::record().str(&self.name), &self.keys);
        lp.u64(ms(self.joined))
            .u64(ms(self.renewed))
            .str(&self.version)
            .into_bytes()
    }

    /// Reads a row's body.
    ///
    /// # Errors
    /// [`EnvelopeError`] when it is not exactly one record of this kind, here and below.
    pub fn decode(body: &[u8]) -> Result<Self, EnvelopeError> {
        read("identity", body, |r| {
            Ok(Self {
                name: text(r, "name")?,
                keys: read_keys(r)?,
                joined: time(r, "joined")?,
                renewed: time(r, "renewed")?,
                version: text(r, "version")?,
            })
        })
    }
}

impl OperatorRecord {
    /// The row's body.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        write_keys(Lp::record().str(self.role.name()), &self.keys)
            .u64(ms(self.created))
            .u64(ms(self.signed_in))
            .into_bytes()
    }

    /// Until when their certificate is renewed.
    #[must_use]
    pub fn renews_until(&self) -> Timestamp {
        self.signed_in
            .saturating_add(OPERATOR_RENEWS_FOR)
            .unwrap_or(Timestamp::MAX)
    }

    /// Reads a row's body.
    ///
    /// # Errors
    /// As [`NodeRecord::decode`].
    pub fn decode(body: &[u8]) -> Result<Self, EnvelopeError> {
        read("operator", body, |r| {
            let role = match r.str("role", TEXT_MAX)? {
                "admin" => Role::Admin,
                _ => return Err(Malformed::new("role", Fault::Unknown)),
            };
            Ok(Self {
                role,
                keys: read_keys(r)?,
                created: time(r, "created")?,
                signed_in: time(r, "signed in")?,
            })
        })
    }
}

impl BanRecord {
    /// The row's body.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        Lp::record()
            .str(&self.reason)
            .str(&self.by)
            .u64(ms(self.at))
            .into_bytes()
    }

    /// Reads a row's body.
    ///
    /// # Errors
    /// As [`NodeRecord::decode`].
    pub fn decode(body: &[u8]) -> Result<Self, EnvelopeError> {
        read("ban", body, |r| {
            Ok(Self {
                reason: text(r, "reason")?,
                by: text(r, "by")?,
                at: time(r, "at")?,
            })
        })
    }
}

impl JoinTokenRecord {
    /// The row's body.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        Lp::record()
            .bytes(&self.hash.0)
            .str(&self.cluster)
            .str(&self.node_name)
            .str(&self.node_uid)
            .u64(ms(self.not_after))
            .str(&self.by)
            .into_bytes()
    }

    /// Reads a row's body.
    ///
    /// # Errors
    /// As [`NodeRecord::decode`].
    pub fn decode(body: &[u8]) -> Result<Self, EnvelopeError> {
        read("join-token", body, |r| {
            Ok(Self {
                hash: TokenHash(r.array("hash")?),
                cluster: text(r, "cluster")?,
                node_name: text(r, "node name")?,
                node_uid: text(r, "node uid")?,
                not_after: time(r, "not after")?,
                by: text(r, "by")?,
            })
        })
    }
}

/// Reads one record to its end.
pub(crate) fn read<'a, T>(
    record: &'static str,
    body: &'a [u8],
    fields: impl FnOnce(&mut Reader<'a>) -> Result<T, Malformed>,
) -> Result<T, EnvelopeError> {
    let mut reader = Reader::record(record, body)?;
    let whole = fields(&mut reader).and_then(|value| reader.finish("end").map(|()| value));
    whole.map_err(EnvelopeError::malformed(record))
}

/// A text field of bounded length.
pub(crate) fn text(reader: &mut Reader<'_>, field: &'static str) -> Result<String, Malformed> {
    reader.str(field, TEXT_MAX).map(str::to_owned)
}

/// A time in milliseconds since 1970.
pub(crate) fn time(reader: &mut Reader<'_>, field: &'static str) -> Result<Timestamp, Malformed> {
    i64::try_from(reader.u64(field)?)
        .ok()
        .and_then(|ms| Timestamp::from_millisecond(ms).ok())
        .ok_or(Malformed::new(field, Fault::Unknown))
}

/// A time as it is written; times before 1970 do not occur.
pub(crate) fn ms(at: Timestamp) -> u64 {
    u64::try_from(at.as_millisecond()).unwrap_or(0)
}

fn write_keys(lp: Lp, keys: &RecordedKeys) -> Lp {
    let next = keys.next.as_ref().map(write_key);
    let previous = keys
        .previous
        .as_ref()
        .map(|(key, since)| write_key(key).u64(ms(*since)));
    lp.list([write_key(&keys.current)])
        .list(Vec::from_iter(next))
        .list(Vec::from_iter(previous))
}

fn write_key(key: &RecordedKey) -> Lp {
    Lp::new()
        .bytes(key.spki.as_bytes())
        .str(&key.serial)
        .u64(ms(key.not_after))
        .u32(key.ca)
}

fn read_keys(r: &mut Reader<'_>) -> Result<RecordedKeys, Malformed> {
    let current = r
        .list("current", 1, read_key)?
        .pop()
        .ok_or(Malformed::new("current", Fault::Length))?;
    let next = r.list("next", 1, read_key)?.pop();
    let previous = r
        .list("previous", 1, |r| {
            Ok((read_key(r)?, time(r, "superseded")?))
        })?
        .pop();
    Ok(RecordedKeys {
        current,
        next,
        previous,
    })
}

fn read_key(r: &mut Reader<'_>) -> Result<RecordedKey, Malformed> {
    Ok(RecordedKey {
        spki: SpkiSha256::from_bytes(r.array("spki")?),
        serial: text(r, "serial")?,
        not_after: time(r, "not after")?,
        ca: r.u32("epoch of the CA")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vectors::{Expected, Fields, run};

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_millisecond(ms).unwrap()
    }

    fn key(n: u8) -> RecordedKey {
        RecordedKey {
            spki: SpkiSha256::from_bytes([n; 32]),
            serial: "0a".into(),
            not_after: at(5),
            ca: 1,
        }
    }

    fn node() -> NodeRecord {
        let keys = RecordedKeys::first(key(1))
            .renewed(key(2))
            .promoted(at(7))
            .renewed(key(3));
        NodeRecord {
            name: "node-a".into(),
            keys,
            joined: at(1),
            renewed: at(2),
            version: "0.1.0".into(),
        }
    }

    #[test]
    fn rows_survive_their_encoding() {
        assert_eq!(NodeRecord::decode(&node().encode()).unwrap(), node());
        let operator = OperatorRecord {
            role: Role::Admin,
            keys: RecordedKeys::first(key(1)),
            created: at(9),
            signed_in: at(11),
        };
        assert_eq!(
            OperatorRecord::decode(&operator.encode()).unwrap(),
            operator
        );
        let ban = BanRecord {
            reason: "lost".into(),
            by: "spiffe://d/operator/a".into(),
            at: at(3),
        };
        assert_eq!(BanRecord::decode(&ban.encode()).unwrap(), ban);
        let token = JoinTokenRecord {
            hash: TokenHash([4; 32]),
            cluster: "local".into(),
            node_name: "node-a".into(),
            node_uid: "u".into(),
            not_after: at(10),
            by: "x".into(),
        };
        assert!(JoinTokenRecord::decode(&token.encode()).unwrap() == token);
    }

    /// The edge takes notes of 1,024 bytes, names of Kubernetes of 253, versions of 64 and SPIFFE IDs of 2,048.
    #[test]
    fn the_longest_that_is_taken_is_read_again() {
        let (note, name, id) = ("n".repeat(1024), "k".repeat(253), "s".repeat(2048));
        let node = NodeRecord {
            name: name.clone(),
            version: "v".repeat(64),
            ..node()
        };
        assert_eq!(NodeRecord::decode(&node.encode()).unwrap(), node);
        let ban = BanRecord {
            reason: note,
            by: id.clone(),
            at: at(3),
        };
        assert_eq!(BanRecord::decode(&ban.encode()).unwrap(), ban);
        let token = JoinTokenRecord {
            hash: TokenHash([4; 32]),
            cluster: name.clone(),
            node_name: name.clone(),
            node_uid: name,
            not_after: at(10),
            by: id,
        };
        assert!(JoinTokenRecord::decode(&token.encode()).unwrap() == token);
    }

    #[test]
    fn a_cut_or_lengthened_row_is_refused() {
        let body = node().encode();
        for end in 0..body.len() {
            assert!(NodeRecord::decode(&body[..end]).is_err(), "cut at {end}");
        }
        let longer = [body, vec![0]].concat();
        assert!(NodeRecord::decode(&longer).is_err());
    }

    #[test]
    fn an_unknown_role_is_refused() {
        let lp = write_keys(Lp::record().str("root"), &RecordedKeys::first(key(1)))
            .u64(1)
            .u64(1);
        assert!(OperatorRecord::decode(&lp.into_bytes()).is_err());
    }

    #[test]
    fn rows_are_those_of_the_vectors() {
        run("identity-body", false, |given, expected| {
            let Expected::Out(out) = expected else {
                panic!("a row refuses nothing here")
            };
            let body = out.bytes("body");
            let encoded = match given.text("row") {
                "identity" => check(NodeRecord::decode(&body), told_node(given)).encode(),
                "operator" => check(OperatorRecord::decode(&body), told_operator(given)).encode(),
                "ban" => check(BanRecord::decode(&body), told_ban(given)).encode(),
                _ => {
                    let told = told_token(given);
                    assert!(JoinTokenRecord::decode(&body).unwrap() == told);
                    told.encode()
                }
            };
            assert_eq!(encoded, body);
        });
    }

    fn check<T: PartialEq + std::fmt::Debug>(read: Result<T, EnvelopeError>, told: T) -> T {
        assert_eq!(read.unwrap(), told);
        told
    }

    fn told_at(given: &Fields, name: &str) -> Timestamp {
        at(given.u64(name).try_into().unwrap())
    }

    fn told_key(given: &Fields) -> RecordedKey {
        RecordedKey {
            spki: SpkiSha256::from_bytes(given.array("spki")),
            serial: given.text("serial").into(),
            not_after: told_at(given, "not_after"),
            ca: given.u32("ca"),
        }
    }

    fn told_keys(given: &Fields) -> RecordedKeys {
        let previous = given.object("previous");
        RecordedKeys {
            current: told_key(&given.object("current").unwrap()),
            next: given.object("next").map(|key| told_key(&key)),
            previous: previous.map(|key| (told_key(&key), told_at(&key, "superseded"))),
        }
    }

    fn told_node(given: &Fields) -> NodeRecord {
        NodeRecord {
            name: given.text("name").into(),
            keys: told_keys(given),
            joined: told_at(given, "joined"),
            renewed: told_at(given, "renewed"),
            version: given.text("version").into(),
        }
    }

    fn told_operator(given: &Fields) -> OperatorRecord {
        assert_eq!(given.text("role"), Role::Admin.name());
        OperatorRecord {
            role: Role::Admin,
            keys: told_keys(given),
            created: told_at(given, "created"),
            signed_in: told_at(given, "signed_in"),
        }
    }

    fn told_ban(given: &Fields) -> BanRecord {
        BanRecord {
            reason: given.text("reason").into(),
            by: given.text("by").into(),
            at: told_at(given, "at"),
        }
    }

    fn told_token(given: &Fields) -> JoinTokenRecord {
        JoinTokenRecord {
            hash: TokenHash(given.array("hash")),
            cluster: given.text("cluster").into(),
            node_name: given.text("node_name").into(),
            node_uid: given.text("node_uid").into(),
            not_after: told_at(given, "not_after"),
            by: given.text("by").into(),
        }
    }
}
