//! Keys of ours, borrowed for one purpose each.
//!
//! A key lives in a cell of an arena (or of whoever holds it); these types are a reference to it and the word for
//! what it may do, so that a row MAC key cannot be handed to the anchor. They must never own, copy or print a key.

/// Bytes of every symmetric key, seed and secret here.
pub const KEY_BYTES: usize = 32;

macro_rules! borrowed_keys {
    ($($(#[$doc:meta])+ $name:ident;)+) => {$(
        $(#[$doc])+
        #[derive(Clone, Copy)]
        pub struct $name<'a>(&'a [u8; KEY_BYTES]);

        impl<'a> $name<'a> {
            /// Names the purpose of a key that lives elsewhere.
            #[must_use]
            pub const fn new(key: &'a [u8; KEY_BYTES]) -> Self {
                Self(key)
            }

            pub(crate) const fn bytes(self) -> &'a [u8; KEY_BYTES] {
                self.0
            }
        }
    )+};
}

borrowed_keys! {
    /// The store root key of one keyring number.
    Srk;
    /// A slot's own secret: what its blob is wrapped under.
    SlotSecret;
    /// Keyring: authenticates rows, one key an epoch.
    RowMacKey;
    /// Keyring: the elements of the set hashes.
    SetHashKey;
    /// Keyring: wraps the anchor record.
    AnchorSealKey;
    /// Keyring: chains the anchors.
    AnchorMacKey;
    /// Keyring: makes denial ids.
    DenialKey;
    /// Keyring: wraps the KEKs.
    KekWrapKey;
    /// A key-encryption key of one keyspace and epoch: wraps DEKs.
    Kek;
    /// A data key whose one encryption is done ([`crate::value::DataKey`] makes it): opens and verifies its value.
    Dek;
    /// An Ed25519 seed: audit signing, CA or rekey signing.
    SigningSeed;
    /// An X25519 private key: a slot's, a broker's receive key, or a node plugin's.
    SecretKey;
}
