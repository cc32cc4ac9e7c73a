//! The volume context of a publish: the pod author's attributes and kubelet's own, held against the known names. Pure.
//!
//! A word that is not understood must never be a word that is ignored: an unknown name is refused with the nearest
//! known one. What the values mean is the broker's to say, which reads them from the pod object; here they are only
//! bounded.

use std::collections::HashMap;
use std::str::FromStr;

use attache_envelope::name::{NameError, Namespace, PodName, PodUid, ServiceAccount};
use zeroize::Zeroize;

use super::request::RequestError;
use super::token::TOKENS;

/// The attributes that a pod's author may write.
pub const KNOWN: [&str; 5] = ["container", "secrets", "files", "layout", "mode"];

/// The most bytes of one attribute's value.
pub const MAX_VALUE_BYTES: usize = 16 * 1024;

const POD_NAMESPACE: &str = "csi.storage.k8s.io/pod.namespace";
const POD_NAME: &str = "csi.storage.k8s.io/pod.name";
const POD_UID: &str = "csi.storage.k8s.io/pod.uid";
const SERVICE_ACCOUNT: &str = "csi.storage.k8s.io/serviceAccount.name";
const EPHEMERAL: &str = "csi.storage.k8s.io/ephemeral";
/// Kubelet's own names (CSIDriver.spec.podInfoOnMount and tokenRequests).
const KUBELETS: [&str; 6] = [
    POD_NAMESPACE,
    POD_NAME,
    POD_UID,
    SERVICE_ACCOUNT,
    EPHEMERAL,
    TOKENS,
];

/// How much of an unknown name is shown, in bytes.
const SHOWN_BYTES: usize = 64;

/// What kubelet says of the pod. The broker compares it with the pod's token and object; nothing is decided by it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodInfo {
    /// Its namespace.
    pub namespace: Namespace,
    /// Its name.
    pub name: PodName,
    /// Its uid.
    pub uid: PodUid,
    /// Its service account.
    pub service_account: ServiceAccount,
}

/// A volume context, taken apart.
pub(super) struct VolumeContext {
    /// What the pod's author wrote.
    pub(super) attributes: HashMap<String, String>,
    /// What kubelet says.
    pub(super) pod: PodInfo,
    /// The tokens, where kubelet hands them over in the volume context.
    pub(super) tokens: Option<String>,
}

impl VolumeContext {
    /// Takes a volume context apart.
    ///
    /// # Errors
    /// [`RequestError`] naming the first attribute that is unknown, too long, missing or malformed.
    pub(super) fn parse(mut context: HashMap<String, String>) -> Result<Self, RequestError> {
        // In a fixed order, so that the same request is always refused by the same words.
        let mut names: Vec<&String> = context.keys().collect();
        names.sort_unstable();
        let checked = names.into_iter().try_for_each(|name| check_known(name));
        let tokens = context.remove(TOKENS);
        let parsed = checked.and_then(|()| take_apart(context));
        match parsed {
            Ok((attributes, pod)) => Ok(Self {
                attributes,
                pod,
                tokens,
            }),
            Err(error) => {
                tokens.unwrap_or_default().zeroize();
                Err(error)
            }
        }
    }
}

fn take_apart(
    mut context: HashMap<String, String>,
) -> Result<(HashMap<String, String>, PodInfo), RequestError> {
    let ephemeral = context.remove(EPHEMERAL);
    if ephemeral.as_deref() != Some("true") {
        let mend = "must be true: only inline volumes of a pod are served (spec.volumes[].csi), and the CSIDriver \
                    object must have volumeLifecycleModes: [Ephemeral] and podInfoOnMount: true";
        return Err(wrong(EPHEMERAL, mend));
    }
    let pod = PodInfo {
        namespace: pod_info(&mut context, POD_NAMESPACE)?,
        name: pod_info(&mut context, POD_NAME)?,
        uid: pod_info(&mut context, POD_UID)?,
        service_account: pod_info(&mut context, SERVICE_ACCOUNT)?,
    };
    for name in KNOWN {
        let value = context.get(name).map_or("", String::as_str);
        if value.len() > MAX_VALUE_BYTES {
            return Err(wrong(
                name,
                format!("has more than {MAX_VALUE_BYTES} bytes; shorten it"),
            ));
        }
        if value.contains('\0') {
            return Err(wrong(name, "has a NUL; remove it"));
        }
    }
    if context.get("container").is_none_or(String::is_empty) {
        return Err(wrong(
            "container",
            "is missing; name the one container that mounts the volume",
        ));
    }
    Ok((context, pod))
}

fn pod_info<T: FromStr<Err = NameError>>(
    context: &mut HashMap<String, String>,
    name: &'static str,
) -> Result<T, RequestError> {
    let Some(text) = context.remove(name) else {
        return Err(wrong(
            name,
            "is missing; the CSIDriver object must have podInfoOnMount: true",
        ));
    };
    text.parse()
        .map_err(|error: NameError| wrong(name, error.to_string()))
}

fn check_known(name: &str) -> Result<(), RequestError> {
    if KNOWN.contains(&name) || KUBELETS.contains(&name) {
        return Ok(());
    }
    if name == "uid" {
        let mend = "is not available yet; set securityContext.runAsUser on the container";
        return Err(wrong(name, mend));
    }
    let end = name.floor_char_boundary(SHOWN_BYTES);
    let shown = name.get(..end).unwrap_or_default();
    // An edit distance costs the product of the lengths: what is cut off is not looked at.
    let nearest = KNOWN
        .into_iter()
        .min_by_key(|known| strsim::osa_distance(shown, known))
        .unwrap_or_default();
    let cut = if end < name.len() { "..." } else { "" };
    let problem = format!(
        "unknown attribute \"{}{cut}\"; the nearest known one is {nearest}",
        shown.escape_debug()
    );
    Err(RequestError::new("volumeAttributes", problem))
}

fn wrong(name: &str, problem: impl Into<String>) -> RequestError {
    let field = if KUBELETS.contains(&name) {
        format!("volume_context[{name}]")
    } else {
        format!("volumeAttributes.{name}")
    };
    RequestError::new(field, problem)
}
