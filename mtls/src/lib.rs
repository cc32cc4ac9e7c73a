//! SPIFFE IDs, certificates and TLS configurations that reload.
//!
//! Everything about who a peer is and how that is proven on a connection lives here: the names ([`spiffe`]), the
//! broker's certificate authority ([`ca`]), keys where they are used ([`key`]), the roots a process accepts
//! ([`bundle`]), TLS 1.3 with client certificates ([`tls`]), both ends of a connection ([`accept`], [`connect`],
//! [`stream`]) and when to renew ([`renew`]).
//!
//! The flow: `ca` signs a request made by `key`; `tls` serves the certificate and checks the other one against
//! `bundle`; `accept` and `connect` hand out a [`stream::MtlsStream`] that carries a [`identity::PeerIdentity`].
//!
//! Must never: accept a name from a certificate request, resume a session, speak TLS 1.2, know gRPC, or keep the CA's
//! key.

pub mod accept;
pub mod bundle;
pub mod ca;
pub mod connect;
mod csr;
pub mod identity;
pub mod key;
pub mod pem;
pub mod private_file;
pub mod public_file;
pub mod renew;
pub mod spiffe;
pub mod stream;
pub mod tls;
pub mod verify;

pub use rustls_pki_types::CertificateDer;

#[cfg(test)]
#[path = "../../tests/independent/reader.rs"]
mod vectors;
