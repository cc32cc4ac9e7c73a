//! The node plugin as it is shipped, both of its processes, against a broker of this test on real mutual TLS.
//!
//! The broker's part here says exactly what a test wants it to say, lies included; the real one is met in the
//! project's own end-to-end tests. Everything else is real: the binary, its users, the sockets, the mounts.

mod answers;
mod bed;
mod broker;
mod identity;
mod life;
mod requests;
mod restarts;
