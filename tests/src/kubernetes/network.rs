//! The network of a cluster: a bridge on this machine, and a link to each node's machine. Of the cluster in slot N:
//!
//! ```text
//! 10.250.N.1    this machine: API server, names       bridge attacheN
//! 10.250.N.11   node-a, pods 10.244.N1.0/24           link attacheN-a
//! 10.250.N.12   node-b, pods 10.244.N2.0/24           link attacheN-b
//! ```
//!
//! Every address that a pod speaks to is reached by routes; nothing is masqueraded, and nothing of this machine is changed
//! but for the bridge and what hangs on it.

use std::{fs, net::Ipv4Addr, path::Path, process::Command};

use anyhow::{Result, ensure};

use super::slot::Slot;
use crate::process::run;

/// The addresses of all pods.
pub const PODS: &str = "10.244.0.0/16";

/// The network of one cluster.
#[derive(Debug, Clone, Copy)]
pub struct Network {
    slot: u8,
}

impl Network {
    /// That of the cluster in a slot.
    #[must_use]
    pub fn of(slot: Slot) -> Self {
        Self {
            slot: slot.number(),
        }
    }

    /// This machine, in this network.
    #[must_use]
    pub fn host(self) -> Ipv4Addr {
        Ipv4Addr::new(10, 250, self.slot, 1)
    }

    /// The places of the two nodes.
    #[must_use]
    pub fn places(self) -> [Place; 2] {
        let address = |number: u8| Ipv4Addr::new(10, 250, self.slot, 11 + number);
        let pods = |number: u8| format!("10.244.{}{}.0/24", self.slot, 1 + number);
        [(0, 1), (1, 0)].map(|(own, other)| Place {
            link: self.link(own),
            address: address(own),
            pods: pods(own),
            others: vec![(pods(other), address(other))],
            bridge: self.bridge(),
            host: self.host(),
        })
    }

    /// Makes the bridge.
    ///
    /// # Errors
    /// When it is there already, or cannot be made.
    pub fn create(self) -> Result<()> {
        let (bridge, address) = (self.bridge(), format!("{}/24", self.host()));
        ip(&["link", "add", &bridge, "type", "bridge"])?;
        ip(&["address", "add", &address, "dev", &bridge])?;
        ip(&["link", "set", &bridge, "up"])
    }

    /// Removes the bridge, and the links if their nodes have left any.
    ///
    /// # Errors
    /// When one cannot be removed.
    pub fn remove(self) -> Result<()> {
        for link in [self.link(0), self.link(1), self.bridge()] {
            if exists(&link) {
                // A link may go at this moment, with the network at its other end.
                let removed = ip(&["link", "delete", &link]);
                if exists(&link) {
                    removed?;
                }
            }
        }
        Ok(())
    }

    fn bridge(self) -> String {
        format!("attache{}", self.slot)
    }

    fn link(self, number: u8) -> String {
        let letter = if number == 0 { "a" } else { "b" };
        format!("{}-{letter}", self.bridge())
    }
}

/// Where a node is in the network.
#[derive(Debug, Clone)]
pub struct Place {
    /// Its link, on this machine's side.
    pub link: String,
    /// Its own address.
    pub address: Ipv4Addr,
    /// Those of its pods.
    pub pods: String,
    others: Vec<(String, Ipv4Addr)>,
    bridge: String,
    /// This machine.
    pub host: Ipv4Addr,
}

impl Place {
    /// Its link is there.
    #[must_use]
    pub fn link_exists(&self) -> bool {
        exists(&self.link)
    }

    /// Cuts the node off from everything, or connects it again.
    ///
    /// # Errors
    /// When it has no link.
    pub fn set_connected(&self, connected: bool) -> Result<()> {
        let state = if connected { "up" } else { "down" };
        ip(&["link", "set", &self.link, state])
    }
}

/// Connects the machine that the process `holder` keeps to the bridge.
///
/// # Errors
/// When a step is refused.
pub fn connect(place: &Place, holder: u32) -> Result<()> {
    let holder = holder.to_string();
    ip(&[
        "link",
        "add",
        &place.link,
        "type",
        "veth",
        "peer",
        "name",
        "eth0",
        "netns",
        &holder,
    ])?;
    ip(&["link", "set", &place.link, "master", &place.bridge, "up"])?;
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
    inside(&["route", "add", "default", "via", &place.host.to_string()])?;
    for (pods, node) in &place.others {
        inside(&["route", "add", pods, "via", &node.to_string()])?;
    }
    // What lies below /proc/sys/net is that of the network of whoever looks.
    let forward = "echo 1 >/proc/sys/net/ipv4/ip_forward";
    let target = format!("--target={holder}");
    checked(Command::new("nsenter").args([&target, "--net", "sh", "-c", forward]))?;
    // That of the boot before stands.
    ip(&[
        "route",
        "replace",
        &place.pods,
        "via",
        &place.address.to_string(),
    ])
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
