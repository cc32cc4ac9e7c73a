//! `attache secret pin` and `attache secret unpin`.

use attache_proto::attache::v1::{self as pb, secrets_client::SecretsClient};
use serde::Serialize;

use super::near_secret;
use crate::args::secret::{One, Pin};
use crate::command::{Changed, Shell};
use crate::failure::{Exit, Failure};
use crate::output::{Human, Report};
use crate::put::wire_path;
use crate::session::{Session, mutation};

#[derive(Debug, Serialize)]
struct PinJson {
    reference: String,
    pinned: bool,
    #[serde(flatten)]
    changed: Changed,
}

/// Keeps a version, however many its keyspace keeps.
///
/// # Errors
/// As [`super::list`]; [`Exit::Precondition`] when there is no such version, or it is pinned already.
pub async fn pin(args: Pin, shell: &Shell) -> Result<Report, Failure> {
    set(args, true, shell).await
}

/// Lets a pinned version go when its keyspace does not keep it.
///
/// # Errors
/// As [`super::list`]; [`Exit::Precondition`] when there is no such version, or it is not pinned.
pub async fn unpin(args: Pin, shell: &Shell) -> Result<Report, Failure> {
    set(args, false, shell).await
}

/// Pins a version, or unpins it.
async fn set(args: Pin, pinned: bool, shell: &Shell) -> Result<Report, Failure> {
    let session = shell.session().await?;
    let reference = args.reference.to_string();
    let dry_run = args.dry_run.dry_run;
    let (id, mutation) = mutation(dry_run);
    let path = Some(wire_path(&args.reference.path));
    let version = args.reference.version.map_or(0, |version| version.number());
    let reason = args.reason.clone().unwrap_or_default();
    let committed = if pinned {
        let request = pb::PinVersionRequest {
            mutation,
            path,
            version,
            reason,
        };
        let what = format!("{reference} was not pinned");
        let answer: Result<pb::PinVersionResponse, _> = session
            .change(&what, id, &request, |channel, request| async move {
                SecretsClient::new(channel).pin_version(request).await
            })
            .await;
        answer.map(|answer| answer.committed)
    } else {
        let request = pb::UnpinVersionRequest {
            mutation,
            path,
            version,
            reason,
        };
        let what = format!("{reference} was not unpinned");
        let answer: Result<pb::UnpinVersionResponse, _> = session
            .change(&what, id, &request, |channel, request| async move {
                SecretsClient::new(channel).unpin_version(request).await
            })
            .await;
        answer.map(|answer| answer.committed)
    };
    let committed = match committed {
        Ok(committed) => committed,
        Err(failure) => return Err(with_mend(failure, args, &session).await),
    };
    let changed = Changed::new(id, committed, dry_run);
    let text = if pinned {
        let is = changed.says("is pinned", "would be pinned");
        format!("{reference} {is}: it stays until it is unpinned, or the secret is destroyed")
    } else {
        let is = changed.says("is not pinned any more", "would not be pinned any more");
        format!(
            "{reference} {is}: if its keyspace does not keep it, it is pruned in the background"
        )
    };
    let data = PinJson {
        reference: reference.clone(),
        pinned,
        changed,
    };
    Report::new(&data, vec![reference], Human::Text(text))
}

/// Where to look, when there is no such version or it is so already.
async fn with_mend(failure: Failure, args: Pin, session: &Session) -> Failure {
    let path = args.reference.path;
    let look = format!("look at what there is: attache secret versions {path}");
    let failure = near_secret(failure, &One { path }, session).await;
    match (failure.exit, &failure.mend) {
        (Exit::Precondition, None) => failure.mend(look),
        _ => failure,
    }
}
