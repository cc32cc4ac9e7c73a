//! The network of a cluster: a bridge on this machine, and a link to each node's machine.
//!
//! ```text
//! 10.250.0.1    this machine: API server, names       bridge attache0
//! 10.250.0.11   node-a, pods 10.244.1.0/24            link attache-a
//! 10.250.0.12   node-b, pods 10.244.2.0/24            link attache-b
//! ```
//!
//! Every address that a pod speaks to is reached by routes; nothing is masqueraded, and nothing of this machine is changed
//! but for the bridge and what hangs on it.

use std::{fs, net::Ipv4Addr, path::Path, process::Command};

use anyhow::{Result, ensure};

use crate::process::run;

/// This machine, in the cluster's network.
pub const HOST: Ipv4Addr = Ipv4Addr::new(10, 250, 0, 1);
/// The addresses of all pods.
pub const PODS: &str = "10.244.0.0/16";
const BRIDGE: &str = "attache0";
/// The links of all nodes, on this machine's side.
const LINKS: [&str; 2] = ["attache-a", "attache-b"];

/// Where a node is in the network.
#[derive(Debug, Clone)]
pub struct Place {
    /// Its link, on this machine's side.
    pub link: &'static str,
    /// Its own address.
    pub address: Ipv4Addr,
    /// Those of its pods.
    pub pods: String,
    others: Vec<(String, Ipv4Addr)>,
}

impl Place {
    /// The places of the two nodes.
    #[must_use]
    pub fn both() -> [Self; 2] {
        let address = |number: u8| Ipv4Addr::new(10, 250, 0, 10 + number);
        let pods = |number: u8| format!("10.244.{number}.0/24");
        let place = |link, own: u8, other: u8| Self {
            link,
            address: address(own),
            pods: pods(own),
            others: vec![(pods(other), address(other))],
        };
        [place(LINKS[0], 1, 2), place(LINKS[1], 2, 1)]
    }

    /// Its link is there.
    #[must_use]
    pub fn link_exists(&self) -> bool {
        exists(self.link)
    }

    /// Cuts the node off from everything, or connects it again.
    ///
    /// # Errors
    /// When it has no link.
    pub fn set_connected(&self, connected: bool) -> Result<()> {
        let state = if connected { "up" } else { "down" };
        ip(&["link", "set", self.link, state])
    }
}

/// Makes the bridge.
///
/// # Errors
/// When it is there already, or cannot be made.
pub fn create() -> Result<()> {
    ip(&["link", "add", BRIDGE, "type", "bridge"])?;
    ip(&["address", "add", &format!("{HOST}/24"), "dev", BRIDGE])?;
    ip(&["link", "set", BRIDGE, "up"])
}

/// Connects the machine that the process `holder` keeps to the bridge.
///
/// # Errors
/// When a step is refused.
pub fn connect(place: &Place, holder: u32) -> Result<()> {
    let holder = holder.to_string();
    ip(&[
        "link", "add", place.link, "type", "veth", "peer", "name", "eth0", "netns", &holder,
    ])?;
    ip(&["link", "set", place.link, "master", BRIDGE, "up"])?;
    let inside = |args: &[&str]| {
        let target = format!("--target={holder}");
        checked(
            Command::new("nsenter")
                .args([&target, "--net", "ip"])
                .args(args),
        )
    };
    inside(&["link", "set", "lo", "up"])?;
    inside(&[
        "address",
        "add",
        &format!("{}/24", place.address),
        "dev",
        "eth0",
    ])?;
    inside(&["link", "set", "eth0", "up"])?;
    inside(&["route", "add", "default", "via", &HOST.to_string()])?;
    for (pods, node) in &place.others {
        inside(&["route", "add", pods, "via", &node.to_string()])?;
    }
    // What lies below /proc/sys/net is that of the network of whoever looks.
    let forward = "echo 1 >/proc/sys/net/ipv4/ip_forward";
    let target = format!("--target={holder}");
    checked(Command::new("nsenter").args([&target, "--net", "sh", "-c", forward]))?;
    ip(&[
        "route",
        "add",
        &place.pods,
        "via",
        &place.address.to_string(),
    ])
}

/// Removes the bridge, and the links if their nodes have left any.
///
/// # Errors
/// When one cannot be removed.
pub fn remove() -> Result<()> {
    for link in LINKS.into_iter().chain([BRIDGE]) {
        if exists(link) {
            // A link may go at this moment, with the network at its other end.
            let removed = ip(&["link", "delete", link]);
            if exists(link) {
                removed?;
            }
        }
    }
    Ok(())
}

fn exists(link: &str) -> bool {
    fs::symlink_metadata(Path::new("/sys/class/net").join(link)).is_ok()
}

fn ip(args: &[&str]) -> Result<()> {
    checked(Command::new("ip").args(args))
}

fn checked(command: &mut Command) -> Result<()> {
    let output = run(command)?;
    ensure!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
