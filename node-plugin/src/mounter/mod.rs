//! The privileged half: it mounts, fills, empties and unmounts the tmpfs of a volume, and nothing else.
//!
//! ```text
//! serve -> ipc::server -> Volumes -> target      a path below kubelet's folder, opened without links
//!                                 -> mountinfo   what is mounted there
//!                                 -> tmpfs       mount, unmount
//!                                 -> generation  files in, `..data` swapped, old ones out
//!                                 -> inspect     what lies in a volume
//! ```
//!
//! [`supervise()`] starts mounter and agent where no container runtime does.
//!
//! It parses nothing that came from a network and holds no token, certificate or key of HPKE. Its only peer is the
//! agent, whose every word is checked: who takes over the agent can mount a tmpfs into a pod's CSI folder, fill it
//! and unmount it, and that is all.

mod confine;
mod error;
mod failpoint;
mod folder;
mod generation;
mod inspect;
mod mount_id;
mod mountinfo;
mod seccomp;
mod serve;
mod signals;
mod sockets;
mod supervise;
mod target;
mod tmpfs;
mod volumes;

pub use confine::{ConfineError, confine};
pub use error::MountError;
pub use failpoint::{Failpoint, Failpoints, UnknownFailpoint};
pub use serve::{MounterSettings, ServeError, serve};
pub use sockets::SocketError;
pub use supervise::{Child, SuperviseError, begin_supervised, supervise};
pub use tmpfs::VolumeLimits;
pub use volumes::Volumes;

#[cfg(test)]
mod tests;
