//! Named places where a crash test makes the mounter die, as if it were killed there; and an older kernel than there is.
//!
//! Set by `danger_failpoints` and by nothing else; the product's defaults name none.

use std::str::FromStr;

use thiserror::Error;

/// A place to die.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failpoint {
    /// `after-mount`: the tmpfs is at its target, nobody was told.
    AfterMount,
    /// `after-write`: the new generation's files lie in the volume, under no name that anybody follows.
    AfterWrite,
    /// `before-swap`: all that is missing is the rename of `..data`.
    BeforeSwap,
    /// `after-swap`: the new generation holds, the old one still lies there.
    AfterSwap,
    /// `after-unmount`: the tmpfs is gone, the folder is still there.
    AfterUnmount,
    /// `no-inode-flags`: not to die, but to take this kernel's tmpfs for one that has no inode flags.
    NoInodeFlags,
}

/// A name that is no failpoint.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "unknown failpoint; there are after-mount, after-write, before-swap, after-swap, after-unmount and no-inode-flags"
)]
pub struct UnknownFailpoint;

impl FromStr for Failpoint {
    type Err = UnknownFailpoint;

    fn from_str(name: &str) -> Result<Self, UnknownFailpoint> {
        match name {
            "after-mount" => Ok(Self::AfterMount),
            "after-write" => Ok(Self::AfterWrite),
            "before-swap" => Ok(Self::BeforeSwap),
            "after-swap" => Ok(Self::AfterSwap),
            "after-unmount" => Ok(Self::AfterUnmount),
            "no-inode-flags" => Ok(Self::NoInodeFlags),
            _ => Err(UnknownFailpoint),
        }
    }
}

/// The failpoints that are set.
#[derive(Debug, Clone, Default)]
pub struct Failpoints(pub Vec<Failpoint>);

impl Failpoints {
    /// Whether `point` is set.
    pub(super) fn is_set(&self, point: Failpoint) -> bool {
        self.0.contains(&point)
    }

    /// Ends the process, without unwinding, if `point` is set.
    pub(super) fn pass(&self, point: Failpoint) {
        if self.is_set(point) {
            std::process::abort();
        }
    }
}
