//! Handshakes over real sockets: who is let in, who is not, and what happens to a connection afterwards.

#[cfg(test)]
mod enrollment;
#[cfg(test)]
mod fixture;
#[cfg(test)]
mod handshake;
#[cfg(test)]
mod limits;
#[cfg(test)]
mod protocol;
#[cfg(test)]
mod recorded;
#[cfg(test)]
mod refusals;
#[cfg(test)]
mod reload;
