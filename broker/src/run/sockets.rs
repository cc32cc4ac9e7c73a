//! The sockets that are a process's own, whatever state its broker is in, and where it says that they are.
//!
//! Enrollment, admin and metrics are bound once: who waits in their line while the broker is opened or sealed is served then,
//! and a port that the system chose stays. Mutual TLS is bound by an open broker alone.

use std::{
    net::{SocketAddr, TcpListener as StdTcp},
    os::unix::net::UnixListener as StdUnix,
};

use anyhow::{Context, Result};
use tokio::net::{TcpListener, TcpSocket, UnixListener};

use crate::{api, config::Listen};

/// Connections that wait to be accepted: as many as the system takes (net.core.somaxconn), since past it a flood makes honest
/// ones wait a second each.
const BACKLOG: u32 = 4096;

/// Bound, and handed out once a state.
pub(super) struct Sockets {
    enroll: StdTcp,
    admin: StdUnix,
    metrics: Option<StdTcp>,
}

impl Sockets {
    /// Binds them, as the settings say.
    ///
    /// # Errors
    /// When one cannot be bound, with the setting's name.
    pub(super) fn bind(listen: &Listen) -> Result<Self> {
        let admin = api::admin::bind(&listen.admin).with_context(|| {
            format!("cannot listen on {} (listen.admin)", listen.admin.display())
        })?;
        let metrics = listen.metrics.map(|at| bind("listen.metrics", at));
        Ok(Self {
            enroll: bind("listen.enroll", listen.enroll)?.into_std()?,
            admin: admin.into_std()?,
            metrics: metrics
                .transpose()?
                .map(TcpListener::into_std)
                .transpose()?,
        })
    }

    /// Whoever joins, and whoever unseals.
    pub(super) fn enroll(&self) -> Result<TcpListener> {
        Ok(TcpListener::from_std(self.enroll.try_clone()?)?)
    }

    /// Root on this machine.
    pub(super) fn admin(&self) -> Result<UnixListener> {
        Ok(UnixListener::from_std(self.admin.try_clone()?)?)
    }

    /// Who measures, where the settings say so.
    pub(super) fn metrics(&self) -> Result<Option<TcpListener>> {
        let listener = self.metrics.as_ref();
        let listener = listener.map(|it| Ok(TcpListener::from_std(it.try_clone()?)?));
        listener.transpose()
    }
}

/// Listens on an address; an error names the setting.
pub(super) fn bind(key: &str, address: SocketAddr) -> Result<TcpListener> {
    let bound = || {
        let socket = if address.is_ipv4() {
            TcpSocket::new_v4()?
        } else {
            TcpSocket::new_v6()?
        };
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    bound().with_context(|| format!("cannot listen on {address} ({key})"))
}

/// The text of `listen.json`: where a broker really listens, which its settings may leave to the system. A sealed one has no
/// mutual TLS.
pub(super) fn listening(
    grpc: Option<SocketAddr>,
    enroll: SocketAddr,
    metrics: Option<SocketAddr>,
) -> String {
    let grpc = grpc.map_or_else(String::new, |at| format!("\"grpc\": \"{at}\", "));
    let metrics = metrics.map_or_else(String::new, |at| format!(", \"metrics\": \"{at}\""));
    format!("{{{grpc}\"enroll\": \"{enroll}\"{metrics}}}\n")
}

#[cfg(test)]
mod tests {
    use super::listening;
    use crate::vectors::{Expected, run};

    #[test]
    fn listen_json_is_that_of_the_vectors() {
        run("listen", false, |given, expected| {
            let Expected::Out(out) = expected else {
                panic!("addresses refuse nothing")
            };
            let grpc = given.has("grpc").then(|| given.parse("grpc"));
            let metrics = given.has("metrics").then(|| given.parse("metrics"));
            let text = listening(grpc, given.parse("enroll"), metrics);
            assert_eq!(text, out.text("text"));
        });
    }
}
