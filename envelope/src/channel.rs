//! Who seals to whom: an operator's CLI to the receive key that a broker offers. A put's data keys and a slot's secret travel so,
//! each under a label of its own.

use crate::id::{BootId, KeyId, StoreId};
use crate::lp::Lp;

/// The two ends, and the key between them.
#[derive(Debug, Clone, Copy)]
pub struct Channel<'a> {
    /// The store.
    pub store: StoreId,
    /// The broker's SPIFFE ID, as the TLS peer.
    pub broker_id: &'a str,
    /// The broker's run.
    pub boot: BootId,
    /// The receive key's id.
    pub key_id: KeyId,
    /// The operator's SPIFFE ID.
    pub operator_id: &'a str,
}

impl Channel<'_> {
    /// `LP("attache/put/1", store, broker id, boot, key_id, operator id)`.
    #[must_use]
    pub fn put_info(&self) -> Vec<u8> {
        self.info("attache/put/1")
    }

    /// `LP("attache/slot-channel/1", store, broker id, boot, key_id, operator id)`.
    #[must_use]
    pub fn slot_info(&self) -> Vec<u8> {
        self.info("attache/slot-channel/1")
    }

    fn info(&self, label: &str) -> Vec<u8> {
        Lp::labelled(label)
            .id(self.store)
            .str(self.broker_id)
            .id(self.boot)
            .id(self.key_id)
            .str(self.operator_id)
            .into_bytes()
    }
}
