//! The node plugin as it is shipped, both of its processes, against a broker of this test on real mutual TLS.
//!
//! The broker's part here says exactly what a test wants it to say, lies included; the real one is met in the
//! project's own end-to-end tests. Everything else is real: the binary, its users, the sockets, the mounts.

#[cfg(test)]
mod answers;
#[cfg(test)]
mod bed;
#[cfg(test)]
mod broker;
#[cfg(test)]
mod health;
#[cfg(test)]
mod identity;
#[cfg(test)]
mod life;
#[cfg(test)]
mod listener;
#[cfg(test)]
mod requests;
#[cfg(test)]
mod restarts;
#[cfg(test)]
mod world;
