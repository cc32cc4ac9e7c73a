//! Where an API server is: `https://HOST[:PORT][/PREFIX]`, or that of the cluster in which the broker itself runs.

use std::fmt;
use std::str::FromStr;

use hyper::Uri;
use thiserror::Error;

/// The most bytes of an address.
const MAX_BYTES: usize = 512;

/// An address that names no API server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error(
    "api_server must be https://HOST[:PORT], without user, query and fragment, of at most {MAX_BYTES} bytes; see it with: kubectl cluster-info"
)]
pub struct AddressError;

/// Where to ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ApiAddress {
    /// Where `KUBERNETES_SERVICE_HOST` and `KUBERNETES_SERVICE_PORT` say, as kubelet sets them in every container.
    InCluster,
    /// Here.
    At(Endpoint),
}

/// A host, a port and a prefix of every path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// A name or an address; one of IPv6 without brackets.
    pub(super) host: Box<str>,
    /// The port.
    pub(super) port: u16,
    /// Empty, or `/a/b`.
    pub(super) prefix: Box<str>,
}

impl ApiAddress {
    /// Where that is now; none outside of a pod for [`ApiAddress::InCluster`].
    pub(super) fn resolve(&self) -> Option<Endpoint> {
        match self {
            Self::At(endpoint) => Some(endpoint.clone()),
            Self::InCluster => {
                let var = |name| std::env::var(name).ok();
                let port = var("KUBERNETES_SERVICE_PORT")?.parse().ok()?;
                let host = var("KUBERNETES_SERVICE_HOST").filter(|host| !host.is_empty())?;
                Some(Endpoint {
                    host: host.into(),
                    port,
                    prefix: "".into(),
                })
            }
        }
    }
}

impl Endpoint {
    /// Host and port as they stand in a URL.
    pub(super) fn authority(&self) -> String {
        let Self { host, port, .. } = self;
        if host.contains(':') {
            format!("[{host}]:{port}")
        } else {
            format!("{host}:{port}")
        }
    }
}

impl FromStr for ApiAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        if text.len() > MAX_BYTES || text.contains('#') {
            return Err(AddressError);
        }
        let uri: Uri = text.parse().map_err(|_| AddressError)?;
        let authority = uri.authority().ok_or(AddressError)?;
        if uri.scheme_str() != Some("https")
            || uri.query().is_some()
            || authority.as_str().contains('@')
        {
            return Err(AddressError);
        }
        let host = authority
            .host()
            .trim_start_matches('[')
            .trim_end_matches(']');
        let port = match authority.port() {
            Some(port) => Some(port.as_u16()).filter(|port| *port != 0),
            // A colon without a number behind it, or with one that is none.
            None if authority.as_str().len() != authority.host().len() => None,
            None => Some(443),
        };
        let port = port.ok_or(AddressError)?;
        if host.is_empty() {
            return Err(AddressError);
        }
        Ok(Self::At(Endpoint {
            host: host.into(),
            port,
            prefix: uri.path().trim_end_matches('/').into(),
        }))
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "https://{}{}", self.authority(), self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_https_with_a_host_and_a_port() {
        for (text, shown) in [
            ("https://10.96.0.1:443", "https://10.96.0.1:443"),
            ("https://10.96.0.1", "https://10.96.0.1:443"),
            ("https://api.example:6443/", "https://api.example:6443"),
            ("https://[fd00::1]:6443", "https://[fd00::1]:6443"),
            ("https://[fd00::1]", "https://[fd00::1]:443"),
            (
                "https://r.example/k8s/c-1/",
                "https://r.example:443/k8s/c-1",
            ),
        ] {
            let ApiAddress::At(endpoint) = text.parse().unwrap() else {
                panic!("{text}")
            };
            assert_eq!(endpoint.to_string(), shown);
        }
    }

    #[test]
    fn what_is_no_such_address_is_refused() {
        let long = format!("https://{}", "a".repeat(MAX_BYTES));
        for text in [
            "",
            "10.96.0.1:443",
            "http://10.96.0.1:443",
            "https://",
            "https://:443",
            "https://a:0",
            "https://a:",
            "https://a:99999",
            "https://u@a",
            "https://u:p@a:1",
            "https://a/?q",
            "https://a/#f",
            "https://a b",
            "https://a\n",
            "ftp://a",
            "/x",
            &long,
        ] {
            assert_eq!(text.parse::<ApiAddress>(), Err(AddressError), "{text:?}");
        }
    }
}
