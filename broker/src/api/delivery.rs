//! The release path on the wire: `Delivery` of attache.v1. Only a node's certificate may call.
//!
//! A request comes with its node's [`Slot`] (`room.rs`), which goes where the work goes.

use std::sync::Arc;

use attache_envelope::{
    generation::{Generation, GenerationDigest},
    id::Nonce,
    x25519::PublicKey,
};
use attache_proto::attache::v1 as pb;
use jiff::Timestamp;
use pb::delivery_server::Delivery;
use tonic::{Code, Request, Response, Status};

use super::{
    field::fixed,
    peer::{NodePeer, Peers},
    room::Slot,
    rpc_error::RpcError,
};
use crate::{
    attest::{AttestRequest, PodHints, PodToken, RefusalKind},
    identity::Lacks,
    metrics::Metrics,
    release::{
        Ask, Caller, Delivered, Refused, ReleaseError, Released, ReleasedAnswer, ReleasedFile,
        Releases,
    },
};

/// Attributes of a volume are never more.
const ATTRIBUTES_MAX: usize = 64;

/// The service.
pub struct DeliveryService {
    peers: Peers,
    releases: Releases,
    metrics: Metrics,
}

impl DeliveryService {
    /// Serves releases.
    #[must_use]
    pub fn new(peers: Peers, releases: Releases, metrics: Metrics) -> Self {
        Self {
            peers,
            releases,
            metrics,
        }
    }

    async fn delivered(&self, request: Request<pb::DeliverRequest>) -> Result<Delivered, RpcError> {
        let node = self.peers.node(request.extensions()).await?;
        let slot = request.extensions().get::<Arc<Slot>>().cloned();
        let asked = request.into_inner();
        let lacks = Lacks {
            inode_flags: asked.lacks_inode_flags,
            noswap: asked.lacks_noswap,
        };
        let directory = self.peers.gate().directory();
        directory.lacking().said(&node.id, lacks);
        let ask = ask(asked)?;
        let (caller, now) = (caller(node), Timestamp::now());
        Ok(self.releases.deliver(caller, ask, now, slot).await?)
    }
}

#[tonic::async_trait]
impl Delivery for DeliveryService {
    async fn deliver(
        &self,
        request: Request<pb::DeliverRequest>,
    ) -> Result<Response<pb::DeliverResponse>, Status> {
        let delivered = self.delivered(request).await;
        self.metrics
            .delivered(result(&delivered), reason(&delivered));
        let delivered = delivered?;
        let answer = match delivered {
            Delivered::Unchanged(generation) => {
                pb::deliver_response::Answer::Unchanged(pb::Unchanged {
                    generation: Some(wire(&generation)),
                })
            }
            Delivered::Released(released) => {
                pb::deliver_response::Answer::Released(Box::new(answer(*released)))
            }
        };
        Ok(Response::new(pb::DeliverResponse {
            answer: Some(answer),
        }))
    }
}

/// A delivery's end, for the metrics.
fn result(delivered: &Result<Delivered, RpcError>) -> &'static str {
    match delivered {
        Ok(Delivered::Released(_)) => "released",
        Ok(Delivered::Unchanged(_)) => "unchanged",
        Err(error) if is_failure(error.code()) => "failed",
        Err(_) => "refused",
    }
}

fn is_failure(code: Code) -> bool {
    matches!(
        code,
        Code::Unavailable | Code::ResourceExhausted | Code::Internal
    )
}

fn reason(delivered: &Result<Delivered, RpcError>) -> &'static str {
    delivered.as_ref().err().map_or("", RpcError::reason)
}

impl From<ReleaseError> for RpcError {
    fn from(error: ReleaseError) -> Self {
        match error {
            ReleaseError::Refused(refused) => (*refused).into(),
            ReleaseError::Unrecorded(error) => error.into(),
            ReleaseError::Audit(error) => error.into(),
            ReleaseError::Session(error) => error.into(),
            ReleaseError::Vault(error) => error.into(),
            ReleaseError::Seal(_) => Self::internal(
                "SEAL",
                "the release could not be sealed; see the broker's log",
            ),
            ReleaseError::Withdrawn(error) => error.into(),
            ReleaseError::Moved => Self::unavailable("POLICY_MOVED", error.to_string()),
            ReleaseError::Stopping => Self::unavailable("STOPPING", "the broker is stopping"),
        }
    }
}

impl From<Refused> for RpcError {
    fn from(refused: Refused) -> Self {
        match refused.kind {
            RefusalKind::Unauthenticated => {
                Self::new(Code::Unauthenticated, "POD_NOT_PROVED", refused.line)
            }
            RefusalKind::PermissionDenied => {
                Self::new(Code::PermissionDenied, "DENIED", refused.line)
            }
            RefusalKind::InvalidArgument => {
                Self::new(Code::InvalidArgument, "MALFORMED_VOLUME", refused.line)
            }
            RefusalKind::Unavailable => Self::unavailable("CLUSTER_AWAY", refused.line),
        }
    }
}

fn caller(node: NodePeer) -> Caller {
    Caller {
        node: node.id,
        serial: hex::decode(&node.serial).unwrap_or_default(),
        bans_seen: node.bans_seen,
    }
}

fn ask(asked: pb::DeliverRequest) -> Result<Ask, RpcError> {
    if asked.pod_token.is_empty() {
        return Err(RpcError::new(
            Code::Unauthenticated,
            "NO_TOKEN",
            "attache: denied: there is no token of the pod",
        ));
    }
    if asked.attributes.len() > ATTRIBUTES_MAX {
        return Err(RpcError::invalid(
            "attributes",
            format!("are more than {ATTRIBUTES_MAX}"),
        ));
    }
    let plugin_key = PublicKey::try_from(asked.plugin_key.as_slice()).map_err(|_| {
        RpcError::invalid(
            "plugin_key",
            "must be an X25519 public key of 32 bytes that is not zero",
        )
    })?;
    Ok(Ask {
        attest: AttestRequest {
            token: PodToken::new(asked.pod_token),
            volume_id: asked.volume_id,
            volume_name: asked.volume_name,
            attributes: asked.attributes,
            pod: PodHints {
                namespace: asked.pod_namespace,
                name: asked.pod_name,
                uid: asked.pod_uid,
                service_account: asked.service_account,
            },
            mount_group: asked.volume_mount_group,
        },
        plugin_key,
        nonce: Nonce::from_bytes(fixed::<16>("nonce", &asked.nonce)?),
        held: asked.held.map(held).transpose()?,
    })
}

fn held(generation: pb::Generation) -> Result<Generation, RpcError> {
    Ok(Generation {
        incarnation: generation.incarnation,
        seq: generation.seq,
        digest: GenerationDigest::from_bytes(fixed::<32>("held.digest", &generation.digest)?),
    })
}

fn wire(generation: &Generation) -> pb::Generation {
    pb::Generation {
        incarnation: generation.incarnation,
        seq: generation.seq,
        digest: generation.digest.as_bytes().to_vec(),
    }
}

fn answer(released: Released) -> pb::Released {
    let answer = ReleasedAnswer::from(released);
    let values = answer.values.into_iter().map(|v| pb::ReleasedValue {
        keyspace: v.granted.path.keyspace.to_string(),
        name: v.granted.path.name.to_string(),
        secret: v.granted.secret.as_bytes().to_vec(),
        version: v.granted.version.number(),
        field: v.granted.field.to_string(),
        value: v.granted.value.as_bytes().to_vec(),
        ct_sha256: v.granted.ct_hash.as_bytes().to_vec(),
        ct: v.ct,
    });
    pb::Released {
        generation: Some(wire(&answer.generation)),
        session: answer.session.as_bytes().to_vec(),
        enc: answer.enc.as_bytes().to_vec(),
        store: answer.store.as_bytes().to_vec(),
        boot: answer.boot.as_bytes().to_vec(),
        broker_id: answer.broker,
        release: answer.release.as_bytes().to_vec(),
        leaf_hash: answer.leaf_hash.to_vec(),
        sealed_keys: answer.sealed_keys,
        values: values.collect(),
        files: files(answer.files),
        owner_uid: answer.owner.uid,
        owner_gid: answer.owner.gid,
        missing: answer.missing,
        cluster: answer.cluster,
        namespace: answer.namespace,
        pod_uid: answer.pod_uid,
        container: answer.container,
    }
}

fn files(files: Vec<ReleasedFile>) -> Vec<pb::File> {
    let files = files.into_iter().map(|f| pb::File {
        path: f.path,
        mode: f.mode,
        value: u32::try_from(f.value).unwrap_or(u32::MAX),
    });
    files.collect()
}

#[cfg(test)]
mod tests {
    use attache_envelope::generation::{GenerationFile, Owner};
    use attache_envelope::id::ValueId;
    use prost::Message;

    use super::*;
    use crate::vectors::{Expected, run};

    /// The planned files as they leave: their order is that of the plan, by path.
    #[test]
    fn the_files_of_a_release_are_the_vectors() {
        run("file-list", true, |case, expected| {
            // What a message may not be is the agent's to refuse.
            let Expected::Out(out) = expected else { return };
            let values: Vec<ValueId> = case.texts("values").iter().map(|id| id_of(id)).collect();
            let gid = case
                .value("gid")
                .as_u64()
                .map(|gid| gid.try_into().unwrap());
            let owner = Owner {
                uid: case.u32("uid"),
                gid,
            };
            let planned = case.list("files").into_iter().map(|file| ReleasedFile {
                path: file.text("path").to_owned(),
                mode: file.u32("mode"),
                value: file.u32("value") as usize,
            });
            let mut planned: Vec<_> = planned.collect();
            planned.sort_by(|a, b| a.path.cmp(&b.path));
            let digested = planned.iter().map(|file| GenerationFile {
                path: &file.path,
                mode: file.mode,
                owner,
                value: values[file.value],
            });
            let generation = Generation {
                incarnation: case.u32("incarnation"),
                seq: case.u64("seq"),
                digest: GenerationDigest::of(&digested.collect::<Vec<_>>()).unwrap(),
            };
            assert_eq!(
                hex::encode(generation.digest.as_bytes()),
                out.text("digest")
            );
            let message = pb::Released {
                generation: Some(wire(&generation)),
                files: files(planned),
                owner_uid: owner.uid,
                owner_gid: owner.gid,
                ..pb::Released::default()
            };
            assert_eq!(hex::encode(message.encode_to_vec()), out.text("message"));
        });
    }

    fn id_of(hex: &str) -> ValueId {
        ValueId::from_bytes(hex::decode(hex).unwrap().try_into().unwrap())
    }
}
