//! Bodies of rows: what the vault's tables hold, each `format u16 || suite u16 || LP(fields)`.
//!
//! They are believed only out of a verified [`crate::row::Row`], and decoded strictly all the same: an unknown state, a
//! trailing byte or two fields that contradict each other is an error of the object, never a guess. Each type says
//! its row's key.
//!
//! Times are milliseconds since 1970, UTC. Who is the operator's SPIFFE ID.

mod backups;
mod kek;
mod keys;
mod secrets;

pub use backups::BackupBody;
pub use kek::{KekBody, KekPhase, KekState, Rewrap, WrappedKek};
pub use keys::{KekIndexKey, KeyPolicy, KeyspaceBody, KeyspaceState, ValueKeyBody};
pub use secrets::{HeadBody, HeadState, RequestBody, VersionBody, request_key, request_prefix};

use crate::error::EnvelopeError;
use crate::lp::{Fault, Malformed, Reader};

/// The most bytes of a SPIFFE ID; SPIFFE-ID, section 2.3.
pub const MAX_SPIFFE_ID_BYTES: usize = 2048;

/// The most bytes of a recorded result.
pub const MAX_RESULT_BYTES: usize = 64 * 1024;

/// Decodes a whole body: the record's head, the fields, nothing after them.
fn decode<'a, T>(
    record: &'static str,
    bytes: &'a [u8],
    read: impl FnOnce(&mut Reader<'a>) -> Result<T, Malformed>,
) -> Result<T, EnvelopeError> {
    let mut reader = Reader::record(record, bytes)?;
    let body = read(&mut reader).map_err(EnvelopeError::malformed(record))?;
    reader
        .finish("the record")
        .map_err(EnvelopeError::malformed(record))?;
    Ok(body)
}

/// One byte that is 0 or 1.
fn flag(reader: &mut Reader<'_>, field: &'static str) -> Result<bool, Malformed> {
    match reader.u8(field)? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(Malformed::new(field, Fault::Unknown)),
    }
}

#[cfg(test)]
mod tests;
