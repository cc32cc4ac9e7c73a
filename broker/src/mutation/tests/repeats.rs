//! A repeat that meets what the first attempt has done.

use attache_proto::attache::v1 as pb;
use tonic::Code;

use super::*;
use crate::api::mutate::{Asked, Prepared, mutate};
use crate::api::peer::OperatorPeer;
use crate::api::rpc_error::RpcError;

fn asked(id: RequestId) -> Asked {
    Asked {
        peer: OperatorPeer {
            id: ann(),
            serial: "07".into(),
        },
        verb: "grant.add",
        object: "web".into(),
        mutation: Some(pb::Mutation {
            request_id: id.as_bytes().to_vec(),
            ..Default::default()
        }),
        digest: [1; 32],
        reason: String::new(),
    }
}

fn exists() -> RpcError {
    RpcError::new(Code::AlreadyExists, "GRANT_EXISTS", "there is such a grant")
}

#[tokio::test]
async fn a_repeat_gets_the_answer_of_the_first_that_ends_while_it_is_prepared() {
    let dir = tempfile::tempdir().unwrap();
    init(dir.path()).await;
    let broker = open(dir.path()).await;
    let id = request(NOW_MS);
    let prepare = async {
        let first = mutation(id, 1);
        let run = broker
            .mutations
            .run(first, worked(add("web"), Vec::new()), |_| ());
        run.await.unwrap();
        Err::<Prepared<pb::BanResponse>, _>(exists())
    };
    let done = mutate(&broker.mutations, asked(id), prepare, |_| ()).await;
    let (_, committed) = done.unwrap();
    assert!(committed.repeated);
    // Without a first attempt it is what it is.
    let prepare = async { Err::<Prepared<pb::BanResponse>, _>(exists()) };
    let other = mutate(&broker.mutations, asked(request(NOW_MS)), prepare, |_| ()).await;
    assert_eq!(other.unwrap_err().reason(), "GRANT_EXISTS");
    broker.close().await;
}
