//! Named places where a crash test makes the mounter die, as if it were killed there.
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
}

/// A name that is no failpoint.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "unknown failpoint; there are after-mount, after-write, before-swap, after-swap and after-unmount"
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
            _ => Err(UnknownFailpoint),
        }
    }
}

/// The failpoints that are set.
#[derive(Debug, Clone, Default)]
pub struct Failpoints(pub Vec<Failpoint>);

impl Failpoints {
    /// Ends the process, without unwinding, if `point` is set.
    pub(super) fn pass(&self, point: Failpoint) {
        if self.0.contains(&point) {
            std::process::abort();
        }
    }
}
