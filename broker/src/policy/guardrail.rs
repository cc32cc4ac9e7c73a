//! Guard rails: conditions that every grant is under.

use std::fmt;
use std::str::FromStr;

use attache_envelope::name::GrantName;
use thiserror::Error;

/// What a guard rail demands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Condition {
    /// The container runs as a numeric user that is not 0, or in a user namespace of its own.
    NonRoot,
    /// No container of the pod can reach the files of others.
    Unprivileged,
}

/// A condition that does not exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the condition must be non-root or unprivileged")]
pub struct UnknownCondition;

impl Condition {
    /// Every condition.
    pub const ALL: [Self; 2] = [Self::NonRoot, Self::Unprivileged];

    /// The word for it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::NonRoot => "non-root",
            Self::Unprivileged => "unprivileged",
        }
    }

    /// What it demands, in a sentence for people.
    #[must_use]
    pub const fn demands(self) -> &'static str {
        match self {
            Self::NonRoot => {
                "the container runs as a numeric user that is not 0, or its pod has a user namespace of its own"
            }
            Self::Unprivileged => {
                "no container of the pod is privileged, adds a capability that reaches other processes, unmasks /proc, or mounts kubelet's folder"
            }
        }
    }

    /// The Cedar policy: it forbids what does not hold the condition.
    pub(super) const fn cedar(self) -> &'static str {
        match self {
            Self::NonRoot => "forbid (principal, action, resource) unless { principal.nonRoot };",
            Self::Unprivileged => {
                "forbid (principal, action, resource) unless { principal.unprivileged };"
            }
        }
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl FromStr for Condition {
    type Err = UnknownCondition;

    fn from_str(text: &str) -> Result<Self, UnknownCondition> {
        let found = Self::ALL
            .into_iter()
            .find(|condition| condition.word() == text);
        found.ok_or(UnknownCondition)
    }
}

/// A guard rail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuardrailSpec {
    /// Its name.
    pub name: GrantName,
    /// What it demands.
    pub condition: Condition,
}
