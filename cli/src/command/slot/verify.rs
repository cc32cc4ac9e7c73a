//! `attache slot verify`: that what somebody holds opens a slot.

use attache_envelope::id::SlotId;
use attache_envelope::slot::{SlotKind, SlotVerb};
use attache_proto::attache::v1::{self as pb, slots_client::SlotsClient};
use serde::Serialize;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::{SlotJson, one, sealed, shares};
use crate::args::slot::Verify;
use crate::command::{Changed, Shell};
use crate::failure::{Exit, Failure};
use crate::output::{Human, Report};
use crate::session::{Session, mutation};
use crate::slot_secret::{KeyFile, Purpose, passphrase_of};
use crate::terminal::ask_passphrase;

#[derive(Debug, Serialize)]
pub(super) struct VerifiedJson {
    #[serde(flatten)]
    pub(super) slot: SlotJson,
    /// The numbers of the shares that were given, of a slot that shares open.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) shares_given: Vec<u8>,
    /// Absent when there were too few to open it, since nothing was asked of the broker then.
    #[serde(flatten)]
    pub(super) changed: Option<Changed>,
}

/// Shows that a key file, a passphrase or shares open a slot.
///
/// # Errors
/// As [`super::list`]; [`Exit::Failed`] when a file cannot be read, [`Exit::Usage`] when it is not what a slot of its kind takes.
pub async fn verify(args: Verify, shell: &Shell) -> Result<Report, Failure> {
    let what = format!("slot {} was not verified", args.slot);
    let session = shell.session().await?;
    let dry_run = args.dry_run.dry_run;
    let found = one(&session, &args.slot, &what).await?;
    let failed = |error: &(dyn std::error::Error + 'static)| {
        Failure::new(Exit::Failed, &what).caused_by(error)
    };
    let slot = SlotId::try_from(found.slot.as_slice()).map_err(|error| failed(&error))?;
    let kind: SlotKind = found.kind.parse().map_err(|error| failed(&error))?;
    if kind == SlotKind::Shares {
        return shares::verify(&session, (slot, found), &args, &what).await;
    }
    let secret = held(&args, kind, &what)?;
    let (id, mutation) = mutation(dry_run);
    let purpose = Purpose {
        verb: SlotVerb::Verify,
        request: id,
        slot,
        kind,
        name: "",
    };
    let secret = match secret {
        Some(secret) => Some(sealed(&session, &purpose, &secret, &what).await?),
        None => None,
    };
    let request = pb::VerifySlotRequest {
        mutation,
        slot: found.slot,
        secret,
    };
    let data = verified(&session, id, &request, dry_run, &what).await?;
    let text = format!("slot {} opens", data.slot.name);
    Report::new(&data, vec![data.slot.name.clone()], Human::Text(text))
}

/// Asks the broker.
pub(super) async fn verified(
    session: &Session,
    id: Uuid,
    request: &pb::VerifySlotRequest,
    dry_run: bool,
    what: &str,
) -> Result<VerifiedJson, Failure> {
    let answer: pb::VerifySlotResponse = session
        .change(what, id, request, |channel, request| async move {
            SlotsClient::new(channel).verify_slot(request).await
        })
        .await?;
    Ok(VerifiedJson {
        slot: answer.slot.unwrap_or_default().into(),
        shares_given: Vec::new(),
        changed: Some(Changed::new(id, answer.committed, dry_run)),
    })
}

/// What is to open a slot of that kind, where it is an operator that has it.
fn held(args: &Verify, kind: SlotKind, what: &str) -> Result<Option<Zeroizing<Vec<u8>>>, Failure> {
    if !args.share.is_empty() {
        return Err(Failure::usage(what)
            .because(format!(
                "it is a slot of kind {}, and no share is of it",
                kind.name()
            ))
            .mend("see which slots there are: attache slot list"));
    }
    match (kind, &args.key_file, &args.passphrase_file) {
        (SlotKind::KeyFile, Some(file), _) => {
            let secret = KeyFile::read(file, what)?;
            Ok(Some(Zeroizing::new(secret.expose().to_vec())))
        }
        (SlotKind::KeyFile, None, _) => Err(Failure::usage(what)
            .because("it is opened by a key file")
            .mend("name it: --key-file FILE")),
        (SlotKind::Passphrase, None, Some(file)) => passphrase_of(file, what).map(Some),
        (SlotKind::Passphrase, None, None) => ask_passphrase(false).map(Some),
        (SlotKind::Passphrase, Some(_), _) => Err(Failure::usage(what)
            .because("it is opened by a passphrase")
            .mend(
                "leave --key-file out to be asked for it, or name its file: --passphrase-file FILE",
            )),
        (SlotKind::Kms, None, None) => Ok(None),
        (SlotKind::Kms, ..) => Err(Failure::usage(what)
            .because("it is opened by the broker's KMS plugin")
            .mend("leave the file out")),
        // Their own verb reads them.
        (SlotKind::Shares, ..) => Err(Failure::usage(what).because("it is opened by shares")),
    }
}
