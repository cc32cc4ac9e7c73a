//! What kubelet calls: the CSI Identity and Node services and plugin registration, over unix sockets.
//!
//! ```text
//! mounter's listeners -> listen      only root's processes are heard
//!                     -> services    one thin handler an RPC
//!                     -> request     parsed and validated once; the token in a type that cannot be printed
//!                     -> agent::volumes
//!                     -> status      every error to its gRPC status, in one place
//! ```
//! A request is never logged; what a log may know of it is [`request::PublishRequest::summary`].

pub mod attributes;
pub mod listen;
pub mod registration;
pub mod request;
pub mod services;
pub mod status;
pub mod token;
