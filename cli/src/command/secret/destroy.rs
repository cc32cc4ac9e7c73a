//! `attache secret destroy`.

use attache_proto::attache::v1::{self as pb, secrets_client::SecretsClient};
use serde::Serialize;

use super::near_secret;
use crate::args::secret::{Destroy, One};
use crate::command::{Changed, Shell, held};
use crate::failure::Failure;
use crate::output::{Human, Report};
use crate::put::wire_path;
use crate::session::mutation;
use crate::terminal::confirm;

/// What is not reached by it.
const NOT_REACHED: &str = "copies of the store that were taken before hold it still, sealed, as do pages of the store file that were not \
     used again yet; what pods have mounted stays until they end";

#[derive(Debug, Serialize)]
struct DestroyedJson {
    reference: String,
    versions: u64,
    values: u64,
    kept: u64,
    backups: Vec<held::ByJson>,
    backup_count: u64,
    #[serde(flatten)]
    changed: Changed,
}

/// Takes a version, or all of a secret, out of the store for good.
///
/// # Errors
/// As [`super::list`]; when the name is not confirmed.
pub async fn destroy(args: Destroy, shell: &Shell) -> Result<Report, Failure> {
    let reference = args.reference.to_string();
    let path = args.reference.path;
    let dry_run = args.dry_run.dry_run;
    if !dry_run {
        let asked = match args.reference.version {
            Some(_) => format!("{reference} will be destroyed; {NOT_REACHED}"),
            None => format!(
                "{reference} will be destroyed, with every version, and its name is not given again; {NOT_REACHED}"
            ),
        };
        confirm(&asked, &reference, args.yes)?;
    }
    let session = shell.session().await?;
    let (id, mutation) = mutation(dry_run);
    let request = pb::DestroySecretRequest {
        mutation,
        path: Some(wire_path(&path)),
        version: args.reference.version.map_or(0, |version| version.number()),
    };
    let what = format!("{reference} was not destroyed");
    let answer: Result<pb::DestroySecretResponse, _> = session
        .change(&what, id, &request, |channel, request| async move {
            SecretsClient::new(channel).destroy_secret(request).await
        })
        .await;
    let answer = match answer {
        Ok(answer) => answer,
        Err(failure) => return Err(near_secret(failure, &One { path }, &session).await),
    };
    let changed = Changed::new(id, answer.committed, dry_run);
    let kept = match answer.kept {
        0 => String::new(),
        kept => format!(" ({kept} more stay, since other versions have them too)"),
    };
    let backups = held::by(&answer.backups);
    let still = held::told(&backups, answer.backup_count);
    let text = format!(
        "{reference} {}: versions {}, values {}{kept}; {still}; {NOT_REACHED}",
        changed.says("is destroyed", "would be destroyed"),
        answer.versions,
        answer.values,
    );
    let data = DestroyedJson {
        reference: reference.clone(),
        versions: answer.versions,
        values: answer.values,
        kept: answer.kept,
        backups,
        backup_count: answer.backup_count,
        changed,
    };
    Report::new(&data, vec![reference], Human::Text(text))
}
