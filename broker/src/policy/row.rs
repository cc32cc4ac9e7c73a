//! The rows of grants and guard rails: typed, strictly decoded.
//!
//! ```text
//! grant  (table grant)   = format u16 || suite u16 || LP(keyspace, name, [(field)], to, created u64, by)   under its name
//! guard rail (table policy) = format u16 || suite u16 || LP(condition, created u64, by)                    under its name
//! ```
//! `to` is the text of a WORKLOAD; `created` is in milliseconds since 1970; `by` is the SPIFFE ID of an operator or of
//! the broker. Fields are sorted: a grant has one encoding.

use attache_envelope::EnvelopeError;
use attache_envelope::lp::{Fault, Lp, Malformed, Reader};
use attache_envelope::name::{FieldName, GrantName, SecretPath};

use super::grant::{GrantSpec, MAX_GRANT_FIELDS};
use super::guardrail::GuardrailSpec;

/// The most bytes of a text in these rows: that of a SPIFFE ID.
const MAX_TEXT_BYTES: usize = 2048;

/// A grant, and who made it when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrantRecord {
    /// The grant.
    pub spec: GrantSpec,
    /// When, in milliseconds since 1970.
    pub created_ms: u64,
    /// Whose decision: a SPIFFE ID.
    pub created_by: String,
}

/// A guard rail, and who made it when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuardrailRecord {
    /// The guard rail.
    pub spec: GuardrailSpec,
    /// When, in milliseconds since 1970.
    pub created_ms: u64,
    /// Whose decision: a SPIFFE ID.
    pub created_by: String,
}

impl GrantRecord {
    /// The row's body.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let fields: Vec<Lp> = self
            .spec
            .fields()
            .iter()
            .map(|field| Lp::new().str(field.as_str()))
            .collect();
        Lp::record()
            .str(self.spec.secret().keyspace.as_str())
            .str(self.spec.secret().name.as_str())
            .list(fields)
            .str(&self.spec.to().to_string())
            .u64(self.created_ms)
            .str(&self.created_by)
            .into_bytes()
    }

    /// Reads the body of the row under `name`.
    ///
    /// # Errors
    /// [`EnvelopeError`] when it is not exactly one grant.
    pub fn decode(name: &str, body: &[u8]) -> Result<Self, EnvelopeError> {
        read("grant", body, |reader| {
            let name = key(name)?;
            let secret = SecretPath {
                keyspace: reader.parse("keyspace")?,
                name: reader.parse("name")?,
            };
            let fields: Vec<FieldName> = reader.list("fields", MAX_GRANT_FIELDS, |element| {
                element.parse("fields")
            })?;
            if !fields.is_sorted() {
                return Err(Malformed::new("fields", Fault::Order));
            }
            let to = reader.parse("to")?;
            let conflict = |_| Malformed::new("to", Fault::Conflict);
            let spec = GrantSpec::new(name, secret, fields, to).map_err(conflict)?;
            Ok(Self {
                spec,
                created_ms: reader.u64("created")?,
                created_by: text(reader)?,
            })
        })
    }
}

impl GuardrailRecord {
    /// The row's body.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        Lp::record()
            .str(self.spec.condition.word())
            .u64(self.created_ms)
            .str(&self.created_by)
            .into_bytes()
    }

    /// Reads the body of the row under `name`.
    ///
    /// # Errors
    /// [`EnvelopeError`] when it is not exactly one guard rail.
    pub fn decode(name: &str, body: &[u8]) -> Result<Self, EnvelopeError> {
        read("guardrail", body, |reader| {
            let name = key(name)?;
            let condition = reader.parse("condition")?;
            Ok(Self {
                spec: GuardrailSpec { name, condition },
                created_ms: reader.u64("created")?,
                created_by: text(reader)?,
            })
        })
    }
}

fn read<'a, T>(
    record: &'static str,
    body: &'a [u8],
    fields: impl FnOnce(&mut Reader<'a>) -> Result<T, Malformed>,
) -> Result<T, EnvelopeError> {
    let mut reader = Reader::record(record, body)?;
    let whole = fields(&mut reader).and_then(|value| reader.finish("end").map(|()| value));
    whole.map_err(EnvelopeError::malformed(record))
}

/// Who made it.
fn text(reader: &mut Reader<'_>) -> Result<String, Malformed> {
    reader.str("by", MAX_TEXT_BYTES).map(str::to_owned)
}

/// The row's key.
fn key(name: &str) -> Result<GrantName, Malformed> {
    name.parse()
        .map_err(|_| Malformed::new("name", Fault::Grammar))
}

#[cfg(test)]
mod tests;
