//! The one way of an operator's change: known already, or prepared, put on record, committed, taken up, answered.

use std::future::Future;

use attache_envelope::{id::RequestId, lp::Lp};
use attache_proto::attache::v1 as pb;
use prost::Message;
use sha2::{Digest, Sha256};

use super::{
    field::{fixed, required},
    peer::OperatorPeer,
    rpc_error::RpcError,
};
use crate::{
    mutation::{BrokenOff, Mutation, Mutations, Worked},
    store::Change,
};

/// A change with its answer, before it is committed.
pub struct Prepared<A> {
    /// What to commit.
    pub change: Change,
    /// What to answer, and to answer again to a repeat.
    pub answer: A,
}

/// What is asked for.
pub struct Asked {
    /// By whom.
    pub peer: OperatorPeer,
    /// Such as `grant.add`.
    pub verb: &'static str,
    /// Such as the grant's name.
    pub object: String,
    /// The request id and whether it is a dry run.
    pub mutation: Option<pb::Mutation>,
    /// SHA-256 over everything that was asked for, without the mutation.
    pub digest: [u8; 32],
    /// Why, in the operator's words; empty for none.
    pub reason: String,
}

/// The digest of a request without its `mutation` field: SHA-256(LP("attache/request/1", verb, encoded)).
///
/// The encoding is prost's, fields ascending; no request of ours has a map, so it is the same for the same request.
#[must_use]
pub fn digest(verb: &str, request_without_mutation: &impl Message) -> [u8; 32] {
    let encoded = request_without_mutation.encode_to_vec();
    Sha256::digest(
        Lp::labelled("attache/request/1")
            .str(verb)
            .bytes(&encoded)
            .as_bytes(),
    )
    .into()
}

/// Carries a change through. `prepare` reads and builds; `take_up` changes the views in memory, right after the commit,
/// whether or not the caller still waits and whatever becomes of the outcome.
///
/// # Errors
/// Those of `prepare` and of the mutation; each says whether anything was written.
pub async fn mutate<A, P>(
    mutations: &Mutations,
    asked: Asked,
    prepare: P,
    take_up: impl FnOnce(u64) + Send + 'static,
) -> Result<(A, pb::Committed), RpcError>
where
    A: Message + Default + 'static,
    P: Future<Output = Result<Prepared<A>, RpcError>>,
{
    let nothing = std::future::ready(Ok(()));
    mutate_after(mutations, asked, prepare, nothing, take_up).await
}

/// As [`mutate`], with `before` done between the intent on record and the commit, in the change's own task; what breaks it
/// off is the outcome's reason. A repeat does it no more than the change.
///
/// # Errors
/// As [`mutate`].
pub async fn mutate_after<A, P>(
    mutations: &Mutations,
    asked: Asked,
    prepare: P,
    before: impl Future<Output = Result<(), BrokenOff>> + Send + 'static,
    take_up: impl FnOnce(u64) + Send + 'static,
) -> Result<(A, pb::Committed), RpcError>
where
    A: Message + Default + 'static,
    P: Future<Output = Result<Prepared<A>, RpcError>>,
{
    let mutation = required("mutation", asked.mutation)?;
    let request_id =
        RequestId::from_bytes(fixed::<16>("mutation.request_id", &mutation.request_id)?);
    let operator = asked.peer.id;
    // The log's line then has the id that the audit has.
    tracing::Span::current().record("mutation", tracing::field::display(request_id));
    if let Some(done) = mutations
        .known(&operator, request_id, &asked.digest)
        .await?
    {
        return answer(&done.result, done.seq, true);
    }
    let prepared = match prepare.await {
        Ok(prepared) => prepared,
        // Begun before, it may have been committed since it was looked for: then this is its repeat, not a conflict.
        Err(error) => {
            let known = mutations.known(&operator, request_id, &asked.digest);
            return match known.await? {
                Some(done) => answer(&done.result, done.seq, true),
                None => Err(error),
            };
        }
    };
    if mutation.dry_run {
        return Ok((
            prepared.answer,
            pb::Committed {
                seq: 0,
                repeated: false,
            },
        ));
    }
    let what = Mutation {
        operator,
        cert_serial: hex::decode(&asked.peer.serial).unwrap_or_default(),
        request_id,
        verb: asked.verb.to_owned(),
        object: asked.object,
        digest: asked.digest,
        reason: Some(asked.reason).filter(|reason| !reason.is_empty()),
    };
    let worked = Worked::of(prepared.change, prepared.answer.encode_to_vec())?;
    let work = async {
        before.await?;
        Ok(worked)
    };
    let done = mutations.run(what, work, take_up).await?;
    answer(&done.result, done.seq, done.repeated)
}

fn answer<A: Message + Default>(
    result: &[u8],
    seq: u64,
    repeated: bool,
) -> Result<(A, pb::Committed), RpcError> {
    let answer = A::decode(result).map_err(|_| {
        RpcError::internal(
            "REQUEST_RECORD",
            "the record of the request cannot be read; it was carried out",
        )
    })?;
    Ok((answer, pb::Committed { seq, repeated }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vectors::{Expected, run};

    #[test]
    fn digests_are_those_of_the_vectors() {
        run("request-digest", false, |given, expected| {
            let Expected::Out(out) = expected else {
                panic!("a digest refuses nothing")
            };
            let encoded = given.bytes("encoded");
            let request = pb::CreateKeyspaceRequest::decode(encoded.as_slice()).unwrap();
            assert!(request.mutation.is_none());
            let digest = digest(given.text("verb"), &request);
            assert_eq!(digest.as_slice(), out.bytes("digest"));
        });
    }
}
