//! How the agent and the mounter speak: fixed-size messages over a SOCK_SEQPACKET unix socket.
//!
//! The agent ([`client`]) asks, the mounter ([`server`]) answers, one answer for each request and in their order. On
//! connecting, the mounter speaks first: a hello with its facts and, as SCM_RIGHTS, the two listeners that kubelet
//! connects to. Values cross in a sealed memory file ([`generation`]) and never in a message.
//!
//! Everything that arrives is hostile to its receiver: a message has the exact size, only known numbers and zeroes
//! where nothing is defined, or the connection ends. No message carries a path, a token or a value.

pub mod client;
pub mod codec;
mod file_set;
pub mod generation;
pub mod message;
mod packet;
mod seal;
pub mod server;

pub use client::{Hello, MounterClient, MounterError, VolumeState};
pub use file_set::FileSet;
pub use generation::{FormatError, Generation};
pub use message::{Answer, Facts, Fault, FaultCode, FolderName, Request, VolumeStat};
pub use seal::{NewFile, SealError, SealedGeneration};

/// The file name of the mounter's socket in the folder that the two processes share.
pub const SOCKET_NAME: &str = "mounter.sock";
