//! References: a secret's path, a reference to a version or field of it, a keyspace's key, and a workload.

use std::fmt;
use std::num::{NonZeroU32, NonZeroU64};
use std::str::FromStr;

use super::grammar::{
    ClusterGroup, ClusterName, FieldName, Keyspace, NameError, NameFault, SecretName,
};
use super::kubernetes::{ContainerName, Namespace, ServiceAccount};

/// A version of a secret: counted from 1, never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SecretVersion(NonZeroU64);

impl SecretVersion {
    /// The first version.
    pub const FIRST: Self = Self(NonZeroU64::MIN);

    /// The version of this number; none for 0.
    #[must_use]
    pub const fn new(number: u64) -> Option<Self> {
        match NonZeroU64::new(number) {
            Some(number) => Some(Self(number)),
            None => None,
        }
    }

    /// The number.
    #[must_use]
    pub const fn number(self) -> u64 {
        self.0.get()
    }

    /// The version after this one; none at the end of the numbers.
    #[must_use]
    pub const fn next(self) -> Option<Self> {
        match self.0.checked_add(1) {
            Some(number) => Some(Self(number)),
            None => None,
        }
    }
}

impl fmt::Display for SecretVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for SecretVersion {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let error = NameError::new("the version", NameFault::Version);
        // The standard parser takes a sign and leading zeros; one text a number is the rule here.
        if !text.starts_with(|c: char| matches!(c, '1'..='9')) {
            return Err(error);
        }
        text.parse().map(Self).map_err(|_| error)
    }
}

/// A secret: `KEYSPACE/NAME`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SecretPath {
    /// The tenant.
    pub keyspace: Keyspace,
    /// The name within it.
    pub name: SecretName,
}

impl fmt::Display for SecretPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.keyspace, self.name)
    }
}

impl FromStr for SecretPath {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let shape = NameFault::Shape {
            shape: "KEYSPACE/NAME",
        };
        let (keyspace, name) = text
            .split_once('/')
            .ok_or(NameError::new("the secret", shape))?;
        Ok(Self {
            keyspace: keyspace.parse()?,
            name: name.parse()?,
        })
    }
}

/// A reference to a secret, one version of it, or one field: `KEYSPACE/NAME[@VERSION][#FIELD]`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SecretRef {
    /// Which secret.
    pub path: SecretPath,
    /// Which version; none is the active one.
    pub version: Option<SecretVersion>,
    /// Which field; none is all of them.
    pub field: Option<FieldName>,
}

impl fmt::Display for SecretRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path.fmt(f)?;
        if let Some(version) = self.version {
            write!(f, "@{version}")?;
        }
        if let Some(field) = &self.field {
            write!(f, "#{field}")?;
        }
        Ok(())
    }
}

impl FromStr for SecretRef {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let (rest, field) = match text.split_once('#') {
            Some((rest, field)) => (rest, Some(field.parse()?)),
            None => (text, None),
        };
        let (path, version) = match rest.split_once('@') {
            Some((path, version)) => (path, Some(version.parse()?)),
            None => (rest, None),
        };
        Ok(Self {
            path: path.parse()?,
            version,
            field,
        })
    }
}

/// A keyspace's key: `KEYSPACE@EPOCH`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyRef {
    /// Whose.
    pub keyspace: Keyspace,
    /// Its epoch, from 1.
    pub epoch: NonZeroU32,
}

impl fmt::Display for KeyRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.keyspace, self.epoch)
    }
}

impl FromStr for KeyRef {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let shape = NameFault::Shape {
            shape: "KEYSPACE@EPOCH",
        };
        let (keyspace, epoch) = text
            .split_once('@')
            .ok_or(NameError::new("the key", shape))?;
        let error = NameError::new("the epoch", NameFault::Epoch);
        let keyspace = keyspace.parse()?;
        // As of a version.
        if !epoch.starts_with(|c: char| matches!(c, '1'..='9')) {
            return Err(error);
        }
        let epoch = epoch.parse().map_err(|_| error)?;
        Ok(Self { keyspace, epoch })
    }
}

/// A cluster, or a group of clusters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ClusterRef {
    /// One cluster.
    Name(ClusterName),
    /// `@GROUP`.
    Group(ClusterGroup),
}

impl fmt::Display for ClusterRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => name.fmt(f),
            Self::Group(group) => write!(f, "@{group}"),
        }
    }
}

impl FromStr for ClusterRef {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        match text.strip_prefix('@') {
            Some(group) => group.parse().map(Self::Group),
            None => text.parse().map(Self::Name),
        }
    }
}

/// One container of the pods of one service account: `CLUSTER/NAMESPACE/SERVICEACCOUNT/CONTAINER`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkloadRef {
    /// Where.
    pub cluster: ClusterRef,
    /// The namespace.
    pub namespace: Namespace,
    /// The service account.
    pub service_account: ServiceAccount,
    /// The container.
    pub container: ContainerName,
}

impl fmt::Display for WorkloadRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}/{}/{}/{}",
            self.cluster, self.namespace, self.service_account, self.container
        )
    }
}

impl FromStr for WorkloadRef {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let shape = NameFault::Shape {
            shape: "CLUSTER/NAMESPACE/SERVICEACCOUNT/CONTAINER",
        };
        let mut parts = text.split('/');
        let (Some(cluster), Some(namespace), Some(service_account), Some(container), None) = (
            parts.next(),
            parts.next(),
            parts.next(),
            parts.next(),
            parts.next(),
        ) else {
            return Err(NameError::new("the workload", shape));
        };
        Ok(Self {
            cluster: cluster.parse()?,
            namespace: namespace.parse()?,
            service_account: service_account.parse()?,
            container: container.parse()?,
        })
    }
}
