//! Kubelet's requests as types: parsed and validated once, believed from then on. Pure.
//!
//! The CSI specification leaves most fields open; kubelet's inline volumes fix them, and anything else is refused by
//! the field's name and the mend. `readonly` is not looked at: the files are immutable in any case, and the broker
//! demands `csi.readOnly: true` of the pod object.

use std::collections::HashMap;
use std::fmt;
use std::path::Path;

use attache_proto::csi::v1 as csi;
use csi::volume_capability::{AccessType, MountVolume, access_mode::Mode};
use thiserror::Error;

use super::attributes::{PodInfo, VolumeContext};
use super::token::PodToken;
use crate::volume::{Target, VolumeError, VolumeId};

/// A request that cannot be carried out as it is: which field, what is wrong with it, and the mend.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{field} {problem}")]
pub struct RequestError {
    field: String,
    problem: String,
}

impl RequestError {
    pub(super) fn new(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            problem: problem.into(),
        }
    }
}

/// What a request is held against.
#[derive(Debug, Clone, Copy)]
pub struct Expected<'a> {
    /// Kubelet's folder.
    pub kubelet_dir: &'a Path,
    /// The audience of the pod's token.
    pub audience: &'a str,
}

/// A pod's volume that is to be there.
pub struct PublishRequest {
    /// Which volume, and where.
    pub target: Target,
    /// What the pod's author wrote, without kubelet's own keys.
    pub attributes: HashMap<String, String>,
    /// What kubelet says of the pod.
    pub pod: PodInfo,
    /// The pod's fsGroup (VOLUME_MOUNT_GROUP).
    pub mount_group: Option<u32>,
    /// The pod's token.
    pub token: PodToken,
}

impl PublishRequest {
    /// Parses a request.
    ///
    /// # Errors
    /// [`RequestError`] with the first field that is wrong.
    pub fn parse(
        request: csi::NodePublishVolumeRequest,
        expected: Expected<'_>,
    ) -> Result<Self, RequestError> {
        let mut context = VolumeContext::parse(request.volume_context);
        let tokens = context
            .as_mut()
            .ok()
            .and_then(|context| context.tokens.take());
        // First of all, so that the tokens are wiped whatever else is wrong.
        let token = PodToken::take(request.secrets, tokens, expected.audience);
        let target = parse_target(
            &request.volume_id,
            "target_path",
            &request.target_path,
            expected,
        )?;
        let mount_group = parse_capability(request.volume_capability)?;
        if !request.publish_context.is_empty() {
            return Err(RequestError::new(
                "publish_context",
                "must be empty: there is no controller service",
            ));
        }
        if !request.staging_target_path.is_empty() {
            return Err(RequestError::new(
                "staging_target_path",
                "must be empty: volumes are not staged",
            ));
        }
        let context = context?;
        if context.pod.uid.as_str() != target.pod.as_str() {
            let mend = "names another pod than target_path; both come from kubelet, which must not mix pods";
            return Err(RequestError::new(
                "volume_context[csi.storage.k8s.io/pod.uid]",
                mend,
            ));
        }
        Ok(Self {
            target,
            attributes: context.attributes,
            pod: context.pod,
            mount_group,
            token: token?,
        })
    }

    /// All that a log may know of the request.
    #[must_use]
    pub fn summary(&self) -> Summary<'_> {
        Summary(self)
    }
}

/// An allow-listed view of a request: names and ids, no attribute, no token.
pub struct Summary<'a>(&'a PublishRequest);

impl fmt::Display for Summary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PublishRequest { target, pod, .. } = self.0;
        write!(
            f,
            "volume {} of pod {}/{} ({}), service account {}",
            target.volume, pod.namespace, pod.name, pod.uid, pod.service_account
        )
    }
}

/// The volume of a publish that is wrong otherwise.
///
/// # Errors
/// [`RequestError`] when it names none.
pub fn parse_publish_target(
    volume_id: &str,
    target_path: &str,
    expected: Expected<'_>,
) -> Result<Target, RequestError> {
    parse_target(volume_id, "target_path", target_path, expected)
}

/// A volume that is to be gone.
///
/// # Errors
/// [`RequestError`] with the first field that is wrong.
pub fn parse_unpublish(
    request: &csi::NodeUnpublishVolumeRequest,
    expected: Expected<'_>,
) -> Result<Target, RequestError> {
    parse_target(
        &request.volume_id,
        "target_path",
        &request.target_path,
        expected,
    )
}

/// The volume whose state is asked for; none when no volume of ours can be there. The CSI specification has NOT_FOUND
/// for any id or path without a volume, whatever its form.
///
/// # Errors
/// [`RequestError`] for a field that is missing.
pub fn parse_stats(
    request: &csi::NodeGetVolumeStatsRequest,
    expected: Expected<'_>,
) -> Result<Option<Target>, RequestError> {
    for (field, value) in [
        ("volume_id", &request.volume_id),
        ("volume_path", &request.volume_path),
    ] {
        if value.is_empty() {
            return Err(RequestError::new(field, "is missing"));
        }
    }
    let target = parse_target(
        &request.volume_id,
        "volume_path",
        &request.volume_path,
        expected,
    );
    Ok(target.ok())
}

/// Parses a volume's id and path, which must be of one volume.
fn parse_target(
    volume_id: &str,
    path_field: &'static str,
    path: &str,
    expected: Expected<'_>,
) -> Result<Target, RequestError> {
    for (field, value) in [("volume_id", volume_id), (path_field, path)] {
        if value.is_empty() {
            return Err(RequestError::new(field, "is missing"));
        }
    }
    let id = VolumeId::parse(volume_id)
        .map_err(|error| RequestError::new("volume_id", format!("is refused: {error}")))?;
    let target = Target::from_path(expected.kubelet_dir, path).map_err(|error| match error {
        VolumeError::Path => {
            let dir = expected.kubelet_dir.display();
            let mend = format!("is refused: {error}; KUBELET_DIR is {dir} (node.kubelet_dir)");
            RequestError::new(path_field, mend)
        }
        VolumeError::PodUid | VolumeError::Name | VolumeError::Id => {
            RequestError::new(path_field, format!("is refused: {error}"))
        }
    })?;
    if id != target.volume_id() {
        let mend = format!(
            "is not the id of the volume at {path_field}: csi- and SHA-256(pod uid || volume name)"
        );
        return Err(RequestError::new("volume_id", mend));
    }
    Ok(target)
}

/// Parses the capability, of which only the mount group says something.
fn parse_capability(
    capability: Option<csi::VolumeCapability>,
) -> Result<Option<u32>, RequestError> {
    let field = "volume_capability";
    let Some(capability) = capability else {
        return Err(RequestError::new(field, "is missing"));
    };
    match capability.access_mode.map(|mode| mode.mode()) {
        None | Some(Mode::Unknown) => {
            return Err(RequestError::new(
                format!("{field}.access_mode"),
                "is missing or unknown",
            ));
        }
        Some(_) => {}
    }
    match capability.access_type {
        Some(AccessType::Mount(mount)) => parse_mount(&mount),
        Some(AccessType::Block(_)) => Err(RequestError::new(
            format!("{field}.block"),
            "is not served: files need mount",
        )),
        None => Err(RequestError::new(format!("{field}.mount"), "is missing")),
    }
}

fn parse_mount(mount: &MountVolume) -> Result<Option<u32>, RequestError> {
    let field = "volume_capability.mount";
    if !matches!(mount.fs_type.as_str(), "" | "tmpfs") {
        let mend = "must be tmpfs or empty: leave out csi.fsType";
        return Err(RequestError::new(format!("{field}.fs_type"), mend));
    }
    if !mount.mount_flags.is_empty() {
        return Err(RequestError::new(
            format!("{field}.mount_flags"),
            "must be empty",
        ));
    }
    let group = mount.volume_mount_group.as_str();
    if group.is_empty() {
        return Ok(None);
    }
    let digits = group.len() <= 10 && group.bytes().all(|byte| byte.is_ascii_digit());
    match group.parse::<u32>() {
        // chown(2) takes -1 for "leave it".
        Ok(gid) if digits && gid != u32::MAX => Ok(Some(gid)),
        _ => {
            let mend = "must be a group id in decimal digits, as in fsGroup";
            Err(RequestError::new(
                format!("{field}.volume_mount_group"),
                mend,
            ))
        }
    }
}

#[cfg(test)]
mod tests;
