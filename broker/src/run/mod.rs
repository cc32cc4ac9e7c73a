//! What `attache-broker` does, one file a command: each builds what it needs from typed settings, top down.

mod beginning;
mod bootstrap;
mod check;
mod descriptors;
mod drill;
mod health;
mod incarnation;
mod init;
mod lifetime;
mod meta;
mod open;
mod restore;
mod sealed;
mod serve;
mod server_certificate;
mod sockets;
mod telemetry;
mod unseal;
mod volumes_in_use;

pub use bootstrap::{bootstrap_operator, recover_operator};
pub use check::{check_config, check_store};
pub use drill::drill;
pub use health::health;
pub use init::{NewCluster, init};
pub use lifetime::serve;
pub use restore::restore;
pub use unseal::unseal;
pub use volumes_in_use::volumes_in_use;

use attache_envelope::{
    id::{ChainId, StoreId},
    lp::Lp,
};
use attache_mtls::spiffe::BrokerId;
use sha2::{Digest, Sha256};

use crate::config::Config;

/// The audit chain of a broker: the first 16 bytes of SHA-256(LP("attache/chain/1", store, broker id)). It is the same at
/// every start, and another one for every broker of a store.
fn chain_id(store: StoreId, broker: &BrokerId) -> ChainId {
    let lp = Lp::labelled("attache/chain/1")
        .id(store)
        .str(&broker.to_string());
    first_half(&Sha256::digest(lp.as_bytes()).into())
}

fn first_half(digest: &[u8; 32]) -> ChainId {
    let mut id = [0; 16];
    id.iter_mut().zip(digest).for_each(|(to, from)| *to = *from);
    ChainId::from_bytes(id)
}

/// Starts the log of a command that makes a store: as the broker's own, on standard error.
///
/// # Errors
/// When `telemetry.log` is no filter.
pub fn start_log(config: &Config) -> anyhow::Result<()> {
    telemetry::start(&config.telemetry).map(drop)
}

/// Runs a command's asynchronous part to its end.
fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?
        .block_on(work)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vectors::{Expected, run};

    #[test]
    fn chain_ids_are_those_of_the_vectors() {
        run("chain-id", false, |given, expected| {
            let Expected::Out(out) = expected else {
                panic!("a chain id refuses nothing")
            };
            let (store, broker) = (given.id("store"), given.parse("broker_id"));
            let chain = if given.has("incarnation") {
                incarnation::chain(store, &broker, given.u32("incarnation"))
            } else {
                chain_id(store, &broker)
            };
            assert_eq!(chain.as_bytes().as_slice(), out.bytes("chain"));
        });
    }
}
