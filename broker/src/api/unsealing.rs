//! What opens a sealed broker: `Unsealing` of attache.v1, on the enrollment listener, for anybody.
//!
//! It is there while the broker is open too, and says then only that it is. Whoever calls it is unknown: what they may
//! take is bounded in [`Sealed`].

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use attache_envelope::{
    id::{BootId, SlotId, StoreId},
    shares::ShareError,
    slot::{Slot, SlotSource},
    x25519::Enc,
};
use attache_proto::attache::v1 as pb;
use pb::{admin_server::Admin, enrollment_server::Enrollment, unsealing_server::Unsealing};
use tonic::{Code, Extensions, Request, Response, Status};

use super::{
    field::{fixed, time_ms},
    peer::connection,
    rpc_error::RpcError,
};
use crate::{
    keys::UnlockError,
    seal::{Sealed, SentToSealed, UnsealError},
};

/// The service of a broker in one of its two states.
#[derive(Clone)]
pub(super) enum UnsealingService {
    /// It holds keys.
    Open {
        /// The store.
        store: StoreId,
        /// The broker's SPIFFE ID.
        broker_id: String,
    },
    /// It holds none.
    Sealed(Arc<Sealed>),
}

#[tonic::async_trait]
impl Unsealing for UnsealingService {
    async fn get_seal(
        &self,
        _request: Request<pb::GetSealRequest>,
    ) -> Result<Response<pb::GetSealResponse>, Status> {
        let by = match self {
            Self::Open { .. } => None,
            Self::Sealed(sealed) => sealed.by_operator().note(),
        };
        Ok(Response::new(match self {
            Self::Open { store, broker_id } => pb::GetSealResponse {
                sealed: false,
                store: store.as_bytes().to_vec(),
                broker_id: broker_id.clone(),
                ..pb::GetSealResponse::default()
            },
            Self::Sealed(sealed) => pb::GetSealResponse {
                sealed: true,
                store: sealed.store_id().as_bytes().to_vec(),
                broker_id: sealed.broker().to_string(),
                boot: sealed.boot().as_bytes().to_vec(),
                boot_key: sealed.boot_key().as_bytes().to_vec(),
                by_operator: sealed.by_operator().is_there(),
                slots: sealed.slots().iter().map(|it| view(sealed, it)).collect(),
                sealed_by: by.map(|it| it.operator.clone()).unwrap_or_default(),
                sealed_at: by.map(|it| pb::Time {
                    unix_ms: i64::try_from(it.time_ms).unwrap_or(i64::MAX),
                }),
            },
        }))
    }

    async fn unseal(
        &self,
        request: Request<pb::UnsealRequest>,
    ) -> Result<Response<pb::UnsealResponse>, Status> {
        let from = address(request.extensions());
        let asked = request.into_inner();
        let sent = SentToSealed {
            boot: BootId::from_bytes(fixed::<16>("boot", &asked.boot)?),
            slot: SlotId::from_bytes(fixed::<16>("slot", &asked.slot)?),
            enc: Enc::from_bytes(fixed::<32>("enc", &asked.enc)?),
            sealed: asked.sealed,
        };
        let Self::Sealed(sealed) = self else {
            return Err(RpcError::from(UnsealError::NotSealed).into());
        };
        let (tries, slot) = (Arc::clone(sealed), sent.slot);
        // It goes to its end whether or not the caller still waits: what is noted of it is then what happened.
        let tried = tokio::spawn(async move { tries.unseal(&sent, from).await });
        let tried = tried.await.map_err(|_| stopping())?;
        let open = tried.map_err(RpcError::from)?;
        let ceremony = (!open).then(|| ceremony(sealed, slot)).flatten();
        Ok(Response::new(pb::UnsealResponse { open, ceremony }))
    }
}

/// Where a call came from; the admin socket is this machine.
fn address(extensions: &Extensions) -> IpAddr {
    let here = IpAddr::V4(Ipv4Addr::LOCALHOST);
    connection(extensions).map_or(here, |it| it.info.remote.ip())
}

fn ceremony(sealed: &Sealed, slot: SlotId) -> Option<pb::Ceremony> {
    let collecting = sealed.collecting(slot)?;
    Some(pb::Ceremony {
        share_set: collecting.set.encode(),
        given: collecting.given.into_iter().map(u32::from).collect(),
        ends: collecting.ends_ms.and_then(time_ms),
        lapsed: collecting.lapsed_ms.and_then(time_ms),
    })
}

fn view(sealed: &Sealed, slot: &Slot) -> pb::SealedSlot {
    let passphrase = match slot.identity.source() {
        Ok(SlotSource::Passphrase(parameters)) => {
            let (memory_kib, passes, lanes) = parameters.cost();
            Some(pb::PassphraseCost {
                memory_kib,
                passes,
                lanes,
                salt: parameters.salt().to_vec(),
            })
        }
        Ok(SlotSource::KeyFile | SlotSource::Kms(_) | SlotSource::Shares(_)) | Err(_) => None,
    };
    pb::SealedSlot {
        slot: slot.identity.slot.as_bytes().to_vec(),
        name: slot.about.name.to_string(),
        kind: slot.identity.kind.name().to_owned(),
        passphrase,
        ceremony: ceremony(sealed, slot.identity.slot),
    }
}

impl From<UnsealError> for RpcError {
    fn from(error: UnsealError) -> Self {
        let told = error.to_string();
        match error {
            UnsealError::TooMany { after } => Self::exhausted_for("TOO_MANY_ATTEMPTS", told, after),
            UnsealError::Busy => Self::exhausted("UNSEAL_BUSY", told),
            UnsealError::OtherBoot => Self::new(Code::Aborted, "BOOT_KEY", told),
            UnsealError::Absent { .. } => Self::new(Code::NotFound, "NO_SLOT", told),
            UnsealError::Kind { .. } => Self::new(Code::FailedPrecondition, "SLOT_KIND", told),
            UnsealError::Sealed => Self::invalid("sealed", told),
            UnsealError::WrongSecret { .. } => {
                Self::new(Code::FailedPrecondition, "WRONG_SECRET", told)
            }
            UnsealError::Share(ShareError::OtherSet) => {
                Self::new(Code::FailedPrecondition, "OTHER_SET", told)
            }
            UnsealError::Share(ShareError::Wrong { .. }) => {
                Self::new(Code::FailedPrecondition, "WRONG_SHARE", told)
            }
            UnsealError::Share(ShareError::Twice { .. }) => {
                Self::new(Code::AlreadyExists, "SHARE_TWICE", told)
            }
            UnsealError::Keys(e) => e.into(),
            UnsealError::NotSealed => Self::new(Code::FailedPrecondition, "NOT_SEALED", told),
            UnsealError::Record(ref source) => {
                tracing::error!(error = %source, "an attempt to unseal could not be put on record");
                Self::unavailable("NO_RECORD", told)
            }
            UnsealError::Openers(_) => Self::new(Code::FailedPrecondition, "NOTHING_OPENS", told),
            UnsealError::Store(UnlockError::Store(e)) => e.into(),
            UnsealError::Store(ref source) => {
                tracing::error!(error = %source, "a slot opened, and the store did not");
                Self::internal("STORE_DAMAGED", told)
            }
            UnsealError::Arena(e) => Self::exhausted("KEY_MEMORY", e.to_string()),
        }
    }
}

/// What a sealed broker answers to everything else.
#[derive(Clone)]
pub(super) struct SealedService(pub(super) Arc<Sealed>);

fn is_sealed<T>() -> Result<Response<T>, Status> {
    Err(RpcError::unavailable(
        "SEALED",
        "the broker is sealed, and does nothing before it is opened: attache broker unseal",
    )
    .into())
}

#[tonic::async_trait]
impl Enrollment for SealedService {
    async fn join_node(
        &self,
        _: Request<pb::JoinNodeRequest>,
    ) -> Result<Response<pb::JoinNodeResponse>, Status> {
        is_sealed()
    }

    async fn enroll_node(
        &self,
        _: Request<pb::EnrollNodeRequest>,
    ) -> Result<Response<pb::EnrollNodeResponse>, Status> {
        is_sealed()
    }

    async fn sign_in_operator(
        &self,
        _: Request<pb::SignInOperatorRequest>,
    ) -> Result<Response<pb::SignInOperatorResponse>, Status> {
        is_sealed()
    }

    async fn renew_late(
        &self,
        _: Request<pb::RenewLateRequest>,
    ) -> Result<Response<pb::RenewLateResponse>, Status> {
        is_sealed()
    }
}

#[tonic::async_trait]
impl Admin for SealedService {
    async fn bootstrap_operator(
        &self,
        _: Request<pb::BootstrapOperatorRequest>,
    ) -> Result<Response<pb::BootstrapOperatorResponse>, Status> {
        is_sealed()
    }

    async fn check_store(
        &self,
        _: Request<pb::CheckStoreRequest>,
    ) -> Result<Response<pb::CheckStoreResponse>, Status> {
        is_sealed()
    }

    async fn unseal_broker(
        &self,
        _: Request<pb::UnsealBrokerRequest>,
    ) -> Result<Response<pb::UnsealBrokerResponse>, Status> {
        let opened = self.0.unseal_by_settings().await;
        let slot = opened.map_err(RpcError::from)?.to_string();
        Ok(Response::new(pb::UnsealBrokerResponse { slot }))
    }
}

fn stopping() -> RpcError {
    RpcError::unavailable("STOPPING", "the broker is stopping")
}
