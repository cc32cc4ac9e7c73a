//! Every key of a running broker: the keyring, opened by a slot; KEKs and DEKs under it; the keys that puts come to.
//!
//! `init` makes them ([`Keys::create`]), `serve` opens them ([`Keys::open`]); what is open lives in the key arena and
//! is borrowed for a call. The store root key is wiped as soon as the keyring is open. Nothing here may write a key
//! anywhere but into a cell of the arena, and nothing may print one.

mod audit_key;
mod ca;
mod error;
mod kek;
mod keyring;
mod opening;
mod receive;
mod ring;
mod row_mac;
mod sent;
mod slot_file;
mod slots;

pub use audit_key::{AuditChange, AuditEpoch, AuditEpochs, AuditKey};
pub use ca::{CaChange, CaEpochs, CaKey};
pub use error::{CreateError, KeysError, SlotError, UnlockError};
pub use kek::{Kek, Keks, PreparedKek, Used};
pub use keyring::Keys;
pub use opening::{OpenedBy, Opener, there, unverified_slots};
pub use receive::{OFFERED_FOR, REPLACED_FOR, ReceiveKey, ReceiveKeys};
pub(crate) use ring::{Epochs, Ring};
pub use row_mac::{MacChange, MacEpochs};
pub use sent::SentSecret;
pub use slots::{MAX_SLOTS, NewSlot, Rekeyed, SlotSet};

#[cfg(test)]
pub(crate) mod tests;
