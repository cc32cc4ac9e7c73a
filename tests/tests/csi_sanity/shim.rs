//! The shim: a controller service, which the driver does not have and csi-sanity cannot do without.
//!
//! It makes nothing and keeps nothing: a volume is the name that was asked for, and what a pod's author would write about it.
//! Three calls of the Controller service of the Container Storage Interface v1.12 are answered; the fields here are those
//! that csi-sanity's node specs look at, by the specification's numbers.

use std::{
    collections::{BTreeMap, HashMap},
    convert::Infallible,
    task::{Context, Poll},
};

use attache_proto::codec::Codec;
use prost::{Message, Name};
use tonic::{
    Request, Response, Status,
    body::Body,
    codegen::{BoxFuture, http},
    server::{Grpc, NamedService},
};
use tower::{Service, service_fn};

#[derive(Clone, PartialEq, Message)]
struct CreateVolumeRequest {
    #[prost(string, tag = "1")]
    name: String,
}

#[derive(Clone, PartialEq, Message)]
struct CreateVolumeResponse {
    #[prost(message, optional, tag = "1")]
    volume: Option<Volume>,
}

#[derive(Clone, PartialEq, Message)]
struct Volume {
    #[prost(string, tag = "2")]
    volume_id: String,
    #[prost(map = "string, string", tag = "3")]
    volume_context: HashMap<String, String>,
}

#[derive(Clone, PartialEq, Message)]
struct DeleteVolumeRequest {
    #[prost(string, tag = "1")]
    volume_id: String,
}

#[derive(Clone, PartialEq, Message)]
struct ControllerGetCapabilitiesRequest {}

/// An answer without a field: a volume is gone, nothing more can be done.
#[derive(Clone, PartialEq, Message)]
struct Empty {}

macro_rules! named {
    ($($message:ident)*) => {$(
        impl Name for $message {
            const NAME: &'static str = stringify!($message);
            const PACKAGE: &'static str = "csi.v1";
        }
    )*};
}
named!(CreateVolumeRequest DeleteVolumeRequest ControllerGetCapabilitiesRequest);

/// The service.
#[derive(Clone)]
pub(crate) struct Shim {
    attributes: BTreeMap<String, String>,
}

impl Shim {
    /// Volumes whose context is `attributes`.
    pub(crate) fn new(attributes: BTreeMap<String, String>) -> Self {
        Self { attributes }
    }

    fn volume(self, asked: CreateVolumeRequest) -> CreateVolumeResponse {
        CreateVolumeResponse {
            volume: Some(Volume {
                volume_id: asked.name,
                volume_context: self.attributes.into_iter().collect(),
            }),
        }
    }
}

impl NamedService for Shim {
    const NAME: &'static str = "csi.v1.Controller";
}

impl Service<http::Request<Body>> for Shim {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let shim = self.clone();
        let call = request.uri().path().rsplit('/').next().map(str::to_owned);
        Box::pin(async move {
            Ok(match call.as_deref() {
                Some("CreateVolume") => answer(request, |asked| shim.clone().volume(asked)).await,
                Some("DeleteVolume") => answer(request, |_: DeleteVolumeRequest| Empty {}).await,
                Some("ControllerGetCapabilities") => {
                    answer(request, |_: ControllerGetCapabilitiesRequest| Empty {}).await
                }
                _ => Status::unimplemented("the shim has no such call").into_http(),
            })
        })
    }
}

/// Answers one call: decodes, calls, encodes.
async fn answer<T, U>(
    request: http::Request<Body>,
    reply: impl Fn(T) -> U + Send,
) -> http::Response<Body>
where
    T: Message + Default + Name + Send + Sync + 'static,
    U: Message + Send + Sync + 'static,
{
    let reply = service_fn(|asked: Request<T>| {
        std::future::ready(Ok::<_, Status>(Response::new(reply(asked.into_inner()))))
    });
    Grpc::new(Codec::<U, T>::default())
        .unary(reply, request)
        .await
}
