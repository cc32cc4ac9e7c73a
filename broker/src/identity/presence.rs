//! Whether the machine behind a certificate is still a node of its cluster.
//!
//! A delivery is attested, which compares certificate, token and Node object; for whatever else a node may ask, the
//! comparison is here. A cluster that says no ends it. One that cannot be read ends nothing: what that node gets until it
//! can is a certificate, and no secret.

use attache_envelope::name::NodeName;

use super::view::{Caller, Directory, NotAdmitted};
use crate::attest::ClusterRegistry;

/// Refuses a node whose Node object is gone, or has another uid.
///
/// # Errors
/// [`NotAdmitted::NodeGone`].
pub(super) async fn refuse_gone(
    clusters: &ClusterRegistry,
    directory: &Directory,
    caller: &Caller,
) -> Result<(), NotAdmitted> {
    let Caller::Node { id, .. } = caller else {
        return Ok(());
    };
    let text = id.to_string();
    // Of a cluster that was removed nothing is known, and nothing is delivered to it.
    let Some(cluster) = clusters.cluster(id.cluster()) else {
        return Ok(());
    };
    let view = directory.view();
    let name = view.nodes.get(&text).map(|(_, node)| node.name.parse());
    let Some(Ok(name)) = name else {
        return Ok(());
    };
    let name: NodeName = name;
    match cluster.facts().known_node(&name, id.node_uid()).await {
        Ok(Some(node)) if node.uid.as_str() == id.node_uid() => Ok(()),
        Ok(_) => Err(NotAdmitted::NodeGone { id: text }),
        Err(error) => {
            tracing::warn!(node = %id, %error, "whether the node is still there cannot be read");
            Ok(())
        }
    }
}
