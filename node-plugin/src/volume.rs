//! Which volume: the ids that kubelet gives to a volume, parsed once, and the one path that they stand for.
//!
//! Both processes name a volume by its [`Target`] only. A target is made from parsed parts, so a path with `..`,
//! a slash in a name or a NUL cannot be written down with these types; the mounter derives every path from it and
//! takes no path from anybody. Nothing here touches the file system.

use std::fmt;
use std::path::Path;

use sha2::{Digest, Sha256};
use thiserror::Error;

/// The longest pod uid and volume name, in bytes.
pub const MAX_ID_BYTES: usize = 63;

const PLUGIN_FOLDER: &str = "kubernetes.io~csi";
const MOUNT_FOLDER: &str = "mount";

/// Why a text is not the id or the path of a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum VolumeError {
    /// Not a pod's uid.
    #[error(
        "the pod uid is not 1 to 63 letters, digits and hyphens, beginning with a letter or digit"
    )]
    PodUid,
    /// Not a volume's name.
    #[error(
        "the volume name is not a DNS label (1 to 63 of a-z, 0-9 and hyphens, no hyphen at either end)"
    )]
    Name,
    /// Not a volume id of kubelet's inline volumes.
    #[error("the volume id is not `csi-` and 64 lower-case hex digits")]
    Id,
    /// Not a publish target under the kubelet's folder.
    #[error(
        "the target path is not KUBELET_DIR/pods/POD_UID/volumes/kubernetes.io~csi/VOLUME_NAME/mount"
    )]
    Path,
}

/// `metadata.uid` of a pod: a UUID, or for a static pod the hash of its manifest.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodUid(String);

impl PodUid {
    /// Parses 1 to 63 bytes of `[A-Za-z0-9-]` that begin with a letter or digit.
    ///
    /// # Errors
    /// [`VolumeError::PodUid`].
    pub fn parse(text: &str) -> Result<Self, VolumeError> {
        let whole = text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        let begins = text
            .bytes()
            .next()
            .is_some_and(|b| b.is_ascii_alphanumeric());
        if whole && begins && text.len() <= MAX_ID_BYTES {
            Ok(Self(text.to_owned()))
        } else {
            Err(VolumeError::PodUid)
        }
    }

    /// The uid as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PodUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of a volume in `spec.volumes` of its pod: a DNS label (RFC 1123).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VolumeName(String);

impl VolumeName {
    /// Parses a DNS label: 1 to 63 bytes of `[a-z0-9-]` with a letter or digit at each end.
    ///
    /// # Errors
    /// [`VolumeError::Name`].
    pub fn parse(text: &str) -> Result<Self, VolumeError> {
        let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let whole = text.bytes().all(|b| alphanumeric(b) || b == b'-');
        let begins = text.bytes().next().is_some_and(alphanumeric);
        let ends = text.bytes().next_back().is_some_and(alphanumeric);
        if whole && begins && ends && text.len() <= MAX_ID_BYTES {
            Ok(Self(text.to_owned()))
        } else {
            Err(VolumeError::Name)
        }
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for VolumeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Kubelet's handle of an inline volume, `csi-` + hex(SHA-256(pod uid || volume name)); also the source of its mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VolumeId([u8; 32]);

impl VolumeId {
    /// Parses `csi-` and 64 lower-case hex digits.
    ///
    /// # Errors
    /// [`VolumeError::Id`].
    pub fn parse(text: &str) -> Result<Self, VolumeError> {
        let digits = text.strip_prefix("csi-").ok_or(VolumeError::Id)?;
        if digits.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(VolumeError::Id);
        }
        let mut hash = [0; 32];
        hex::decode_to_slice(digits, &mut hash).map_err(|_| VolumeError::Id)?;
        Ok(Self(hash))
    }
}

impl fmt::Display for VolumeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "csi-{}", hex::encode(self.0))
    }
}

/// One volume of one pod on this node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Target {
    /// The pod.
    pub pod: PodUid,
    /// The volume within the pod.
    pub volume: VolumeName,
}

impl Target {
    /// Parses a CSI target path, `kubelet_dir/pods/<uid>/volumes/kubernetes.io~csi/<name>/mount`, byte for byte: no
    /// doubled or trailing slash, no `.`.
    ///
    /// # Errors
    /// [`VolumeError::Path`], or that of the part that is wrong.
    pub fn from_path(kubelet_dir: &Path, path: &str) -> Result<Self, VolumeError> {
        let root = kubelet_dir.to_str().ok_or(VolumeError::Path)?;
        let inner = path
            .strip_prefix(root.trim_end_matches('/'))
            .and_then(|rest| rest.strip_prefix("/pods/"))
            .ok_or(VolumeError::Path)?;
        let mut parts = inner.split('/');
        let mut next = || parts.next().ok_or(VolumeError::Path);
        let (pod, volumes, plugin, volume, mount) = (next()?, next()?, next()?, next()?, next()?);
        let fixed = [
            (volumes, "volumes"),
            (plugin, PLUGIN_FOLDER),
            (mount, MOUNT_FOLDER),
        ];
        if fixed.iter().any(|(found, wanted)| found != wanted) || parts.next().is_some() {
            return Err(VolumeError::Path);
        }
        Ok(Self {
            pod: PodUid::parse(pod)?,
            volume: VolumeName::parse(volume)?,
        })
    }

    /// The volume's id, computed as kubelet does.
    #[must_use]
    pub fn volume_id(&self) -> VolumeId {
        let mut hash = Sha256::new();
        hash.update(self.pod.as_str());
        hash.update(self.volume.as_str());
        VolumeId(hash.finalize().into())
    }

    /// The folder that kubelet makes for the volume, relative to the kubelet's: all of the path but `/mount`.
    #[must_use]
    pub fn folder(&self) -> String {
        format!("pods/{}/volumes/{PLUGIN_FOLDER}/{}", self.pod, self.volume)
    }

    /// The whole target path under `kubelet_dir`: for messages and clients, never for opening.
    #[must_use]
    pub fn path(&self, kubelet_dir: &Path) -> std::path::PathBuf {
        kubelet_dir.join(self.folder()).join(MOUNT_FOLDER)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.pod, self.volume)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "0b2ed5e2-2f7c-4a41-93a3-5d4bb1d6e8f0";

    fn parse(path: &str) -> Result<Target, VolumeError> {
        Target::from_path(Path::new("/var/lib/kubelet"), path)
    }

    #[test]
    fn a_target_path_parses_and_prints_back() {
        let path = format!("/var/lib/kubelet/pods/{UID}/volumes/kubernetes.io~csi/secrets/mount");
        let target = parse(&path).unwrap();
        assert_eq!(target.pod.as_str(), UID);
        assert_eq!(target.volume.as_str(), "secrets");
        assert_eq!(
            target.path(Path::new("/var/lib/kubelet")).to_str(),
            Some(path.as_str())
        );
        assert_eq!(
            Target::from_path(Path::new("/var/lib/kubelet/"), &path),
            Ok(target.clone())
        );
        assert_eq!(target.to_string(), format!("{UID}/secrets"));
    }

    #[test]
    fn a_volumes_name_is_a_dns_label() {
        for good in ["a", "0", "my-secrets-2", &"v".repeat(63)] {
            assert_eq!(VolumeName::parse(good).unwrap().as_str(), good, "{good:?}");
        }
        for bad in [
            "",
            "-",
            "-a",
            "a-",
            "a_b",
            "aB",
            "a.b",
            "a b",
            "é",
            &"v".repeat(64),
        ] {
            assert_eq!(VolumeName::parse(bad), Err(VolumeError::Name), "{bad:?}");
        }
    }

    #[test]
    fn any_other_path_is_refused() {
        let good = format!("/var/lib/kubelet/pods/{UID}/volumes/kubernetes.io~csi/secrets/mount");
        let long = "v".repeat(64);
        for bad in [
            String::new(),
            good.trim_start_matches('/').to_owned(),
            format!("{good}/"),
            format!("{good}/x"),
            good.replace("/mount", ""),
            good.replace("/mount", "/mounts"),
            good.replace("/mount", "/mount\0"),
            good.replace("secrets", ".."),
            good.replace("secrets", "."),
            good.replace("secrets", ""),
            good.replace("secrets", "Secrets"),
            good.replace("secrets", "-secrets"),
            good.replace("secrets", &long),
            good.replace("secrets", "a/../b"),
            good.replace(UID, ".."),
            good.replace(UID, "-x"),
            good.replace(UID, "a b"),
            good.replace(UID, "é"),
            good.replace(UID, &"u".repeat(64)),
            good.replace("/pods", "//pods"),
            good.replace("kubelet/", "kubelets/"),
            good.replace("~csi", "~nfs"),
            good.replace("volumes", "volume-subpaths"),
        ] {
            assert!(parse(&bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_volume_id_is_kubelets_handle() {
        // printf 'uid-1secrets' | sha256sum
        let target = Target {
            pod: PodUid::parse("uid-1").unwrap(),
            volume: VolumeName::parse("secrets").unwrap(),
        };
        let id = "csi-a6c970caee5cd8f948b03753322bb4387a975639a79681246d20295ab31080fb";
        assert_eq!(target.volume_id().to_string(), id);
        assert_eq!(VolumeId::parse(id), Ok(target.volume_id()));
    }

    #[test]
    fn any_other_volume_id_is_refused() {
        let good = format!("csi-{}", "a1".repeat(32));
        assert!(VolumeId::parse(&good).is_ok());
        for bad in [
            "",
            "csi-",
            &good[1..],
            &good[..67],
            &format!("{good}0"),
            &good.to_uppercase(),
            &good.replace("a1", "A1"),
            &good.replace("a1", "g1"),
        ] {
            assert_eq!(VolumeId::parse(bad), Err(VolumeError::Id), "{bad:?}");
        }
    }
}
