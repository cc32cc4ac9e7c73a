//! A broker's receive key as it is offered for one request, checked: of the pinned broker, and well-formed.

use std::fmt::Display;

use attache_envelope::channel::Channel;
use attache_envelope::id::{BootId, KeyId, StoreId};
use attache_envelope::x25519::PublicKey;

/// An offer as it comes.
pub struct Offer<'a> {
    /// Whose it is, in its own words.
    pub broker_id: &'a str,
    /// The store's uuid.
    pub store: &'a [u8],
    /// The receive key.
    pub receive_key: &'a [u8],
    /// Its id.
    pub key_id: &'a [u8],
    /// The broker's run.
    pub boot: &'a [u8],
}

/// What is sealed to.
#[derive(Debug)]
pub struct Offered {
    /// The store.
    pub store: StoreId,
    /// The receive key.
    pub receive_key: PublicKey,
    /// Its id.
    pub key_id: KeyId,
    /// The broker's run.
    pub boot: BootId,
}

impl Offered {
    /// Checks an offer.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(offer: &Offer<'_>, pinned: &str) -> Result<Self, String> {
        if offer.broker_id != pinned {
            return Err(format!(
                "the broker says that it is {}, and {pinned} is pinned",
                offer.broker_id
            ));
        }
        Ok(Self {
            store: StoreId::try_from(offer.store).map_err(malformed)?,
            receive_key: PublicKey::try_from(offer.receive_key).map_err(malformed)?,
            key_id: KeyId::try_from(offer.key_id).map_err(malformed)?,
            boot: BootId::try_from(offer.boot).map_err(malformed)?,
        })
    }

    /// The way to it.
    #[must_use]
    pub const fn channel<'a>(&self, broker_id: &'a str, operator_id: &'a str) -> Channel<'a> {
        Channel {
            store: self.store,
            broker_id,
            boot: self.boot,
            key_id: self.key_id,
            operator_id,
        }
    }
}

/// Says so of a broker's answer.
pub fn malformed(error: impl Display) -> String {
    format!("the broker's answer is malformed: {error}")
}
