//! A KMS v2 plugin over a PKCS#11 token: a slot of the broker's opens by a key that never leaves its HSM.
//!
//! ```text
//! broker == KMS v2, unix socket ==> attache-kms-pkcs11 == C calls ==> the vendor's module ==> token
//! ```
//! It is a program of its own. The module is foreign code that runs with all that its process has: here that is the token's
//! PIN and one slot's secret while a call lasts, and none of the broker's keys. The broker's image is static and could load
//! no module either.

pub mod config;
pub mod service;
pub mod token;
