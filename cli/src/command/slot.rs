//! `attache slot`, the ways to open the store, and `attache key rotate --root`, the key that all of them open.

use std::path::Path;

use attache_envelope::SystemRandom;
use attache_envelope::id::SlotId;
use attache_envelope::name::SlotName;
use attache_envelope::slot::{SlotKind, SlotVerb};
use attache_proto::attache::v1::{self as pb, slots_client::SlotsClient};
use serde::Serialize;

use super::{Changed, Shell, or_dash, time, uuid_text};
use crate::args::key::Rotate;
use crate::args::slot::{AddKeyFile, Remove, Verify};
use crate::failure::{Exit, Failure};
use crate::near::nearest;
use crate::output::{Human, Report};
use crate::session::{Session, mutation};
use crate::slot_secret::{KeyFile, Purpose, begin};
use crate::terminal::confirm;

/// What taking a slot away does not do.
const NOT_REVOKED: &str = "this revokes no copy: with what opened it, every copy of the store that was taken before opens as \
     ever; where that may be in wrong hands, rotate the keys of the keyspaces too, and change the values at their source";

#[derive(Debug, Serialize)]
struct SlotJson {
    name: String,
    slot: String,
    kind: String,
    created: Option<String>,
    verified: Option<String>,
    /// Whether the broker was opened by it when it started.
    opened: bool,
}

#[derive(Debug, Serialize)]
struct AddedJson {
    #[serde(flatten)]
    slot: SlotJson,
    key_file: String,
    keyring_number: u64,
    #[serde(flatten)]
    changed: Changed,
}

#[derive(Debug, Serialize)]
struct VerifiedJson {
    #[serde(flatten)]
    slot: SlotJson,
    #[serde(flatten)]
    changed: Changed,
}

#[derive(Debug, Serialize)]
struct RemovedJson {
    name: String,
    keyring_number: u64,
    /// How many are left.
    slots: u32,
    #[serde(flatten)]
    changed: Changed,
}

#[derive(Debug, Serialize)]
struct RotatedJson {
    keyring_number: u64,
    slots: u32,
    #[serde(flatten)]
    changed: Changed,
}

impl From<pb::SlotView> for SlotJson {
    fn from(slot: pb::SlotView) -> Self {
        Self {
            name: slot.name,
            slot: uuid_text(&slot.slot),
            kind: slot.kind,
            created: time(slot.created),
            verified: time(slot.verified),
            opened: slot.opened,
        }
    }
}

/// Lists slots.
///
/// # Errors
/// As [`crate::status`] says, here and below.
pub async fn list(shell: &Shell) -> Result<Report, Failure> {
    let session = shell.session().await?;
    let (keyring_number, slots) = views(&session).await?;
    let slots: Vec<_> = slots.into_iter().map(SlotJson::from).collect();
    let row = |slot: &SlotJson| {
        vec![
            slot.name.clone(),
            slot.kind.clone(),
            or_dash(slot.created.as_deref()),
            or_dash(slot.verified.as_deref()),
            if slot.opened { "yes" } else { "" }.to_owned(),
            slot.slot.clone(),
        ]
    };
    let human = Human::Table {
        heads: &["SLOT", "KIND", "CREATED", "VERIFIED", "OPENED", "ID"],
        rows: slots.iter().map(row).collect(),
    };
    let names = slots.iter().map(|slot| slot.name.clone()).collect();
    let data = serde_json::json!({ "slots": slots, "keyring_number": keyring_number });
    Report::new(&data, names, human)
}

/// Makes a key file here, and a slot that it opens. The file is there, durably, before anything is sent.
///
/// # Errors
/// As [`list`]; [`Exit::Failed`] when the file is there already or cannot be made.
pub async fn add_key_file(args: AddKeyFile, shell: &Shell) -> Result<Report, Failure> {
    let session = shell.session().await?;
    let dry_run = args.dry_run.dry_run;
    let what = "no slot was made";
    let failed = |error: &(dyn std::error::Error + 'static)| {
        Failure::new(Exit::Failed, what).caused_by(error)
    };
    let slot = SlotId::random(&SystemRandom).map_err(|error| failed(&error))?;
    let name = match args.name {
        Some(name) => name.to_string(),
        None => format!("key-file-{}", slot.to_string().get(..8).unwrap_or_default()),
    };
    let begun = begin(&session, what).await?;
    let secret = KeyFile::random().map_err(|error| failed(&error))?;
    let (id, mutation) = mutation(dry_run);
    let purpose = Purpose {
        verb: SlotVerb::Add,
        request: id,
        slot,
        kind: SlotKind::KeyFile,
        name: &name,
    };
    let broker = session.broker().to_string();
    let sealed = begun.seal(session.operator(), &broker, &purpose, &secret);
    let request = pb::AddSlotRequest {
        mutation,
        slot: slot.as_bytes().to_vec(),
        name,
        kind: SlotKind::KeyFile.name().to_owned(),
        secret: Some(sealed.map_err(|error| failed(&error))?),
    };
    if !dry_run {
        secret.create(&args.out).map_err(|error| failed(&error))?;
    }
    let answer: Result<pb::AddSlotResponse, _> = session
        .change(what, id, &request, |channel, request| async move {
            SlotsClient::new(channel).add_slot(request).await
        })
        .await;
    let answer = match answer {
        Ok(answer) => answer,
        Err(failure) if dry_run => return Err(failure),
        Err(failure) => return Err(left_behind(failure, &args.out)),
    };
    let data = AddedJson {
        slot: answer.slot.unwrap_or_default().into(),
        key_file: args.out.display().to_string(),
        keyring_number: answer.keyring_number,
        changed: Changed::new(id, answer.committed, dry_run),
    };
    let text = format!(
        "slot {} {}: whoever has {} and the store has everything, so keep it apart from the store; see that it opens with: \
         attache slot verify {} --key-file FILE",
        data.slot.name,
        data.changed.says("is made", "would be made"),
        data.key_file,
        data.slot.name
    );
    Report::new(&data, vec![data.slot.name.clone()], Human::Text(text))
}

/// A key file whose slot was refused opens nothing, and goes; where the slot may be there, it stays.
fn left_behind(failure: Failure, file: &Path) -> Failure {
    let shown = file.display();
    match failure.exit {
        Exit::Usage | Exit::Denied | Exit::Precondition | Exit::NotSignedIn => {
            match std::fs::remove_file(file) {
                Ok(()) => failure,
                Err(_) => failure.mend(format!("remove {shown}: it opens nothing")),
            }
        }
        Exit::Done
        | Exit::Failed
        | Exit::Unavailable
        | Exit::Partly
        | Exit::Found
        | Exit::Interrupted => failure.mend(format!(
            "see whether the slot is there: attache slot list; if it is, {shown} opens it, and if not, remove the file"
        )),
    }
}

/// Shows that a key file opens a slot.
///
/// # Errors
/// As [`list`]; [`Exit::Failed`] when the file cannot be read.
pub async fn verify(args: Verify, shell: &Shell) -> Result<Report, Failure> {
    let what = format!("slot {} was not verified", args.slot);
    let secret = KeyFile::read(&args.key_file, &what)?;
    let session = shell.session().await?;
    let dry_run = args.dry_run.dry_run;
    let found = one(&session, &args.slot, &what).await?;
    let failed = |error: &(dyn std::error::Error + 'static)| {
        Failure::new(Exit::Failed, &what).caused_by(error)
    };
    let slot = SlotId::try_from(found.slot.as_slice()).map_err(|error| failed(&error))?;
    let begun = begin(&session, &what).await?;
    let (id, mutation) = mutation(dry_run);
    let purpose = Purpose {
        verb: SlotVerb::Verify,
        request: id,
        slot,
        kind: SlotKind::KeyFile,
        name: "",
    };
    let broker = session.broker().to_string();
    let sealed = begun.seal(session.operator(), &broker, &purpose, &secret);
    let request = pb::VerifySlotRequest {
        mutation,
        slot: found.slot,
        secret: Some(sealed.map_err(|error| failed(&error))?),
    };
    let answer: pb::VerifySlotResponse = session
        .change(&what, id, &request, |channel, request| async move {
            SlotsClient::new(channel).verify_slot(request).await
        })
        .await?;
    let data = VerifiedJson {
        slot: answer.slot.unwrap_or_default().into(),
        changed: Changed::new(id, answer.committed, dry_run),
    };
    let text = format!("{} opens slot {}", args.key_file.display(), data.slot.name);
    Report::new(&data, vec![data.slot.name.clone()], Human::Text(text))
}

/// Takes a slot away.
///
/// # Errors
/// As [`list`]; when the name is not confirmed.
pub async fn remove(args: Remove, shell: &Shell) -> Result<Report, Failure> {
    let what = format!("slot {} was not removed", args.slot);
    let session = shell.session().await?;
    let dry_run = args.dry_run.dry_run;
    let found = one(&session, &args.slot, &what).await?;
    if !dry_run && !args.yes.yes {
        let start = if found.opened {
            "; the broker was opened by it when it started, and does not start again before its settings name another slot's key"
        } else {
            ""
        };
        let asked = format!(
            "Slot {} ({}) will open the store no more; {NOT_REVOKED}{start}",
            found.name, found.kind
        );
        confirm(&asked, &found.name, args.yes)?;
    }
    let (id, mutation) = mutation(dry_run);
    let request = pb::RemoveSlotRequest {
        mutation,
        slot: found.slot,
    };
    let answer: pb::RemoveSlotResponse = session
        .change(&what, id, &request, |channel, request| async move {
            SlotsClient::new(channel).remove_slot(request).await
        })
        .await?;
    let data = RemovedJson {
        name: answer.name,
        keyring_number: answer.keyring_number,
        slots: answer.slots,
        changed: Changed::new(id, answer.committed, dry_run),
    };
    let text = format!(
        "slot {} {}, left: {}; {NOT_REVOKED}",
        data.name,
        data.changed.says("is removed", "would be removed"),
        counted(data.slots)
    );
    Report::new(&data, vec![data.name.clone()], Human::Text(text))
}

/// The slot of that name, else of that id.
async fn one(session: &Session, wanted: &SlotName, what: &str) -> Result<pb::SlotView, Failure> {
    let (_, mut slots) = views(session).await?;
    let wanted = wanted.as_str();
    let by_name = slots.iter().position(|slot| slot.name == wanted);
    let found = by_name.or_else(|| {
        slots
            .iter()
            .position(|slot| uuid_text(&slot.slot) == wanted)
    });
    if let Some(at) = found {
        return Ok(slots.swap_remove(at));
    }
    let missing = Failure::new(Exit::Precondition, what).because("there is no such slot");
    let names = slots.iter().map(|slot| slot.name.as_str());
    Err(match nearest(wanted, names) {
        Some(near) => missing.mend(format!("did you mean {near}?")),
        None => missing.mend("see which there are: attache slot list"),
    })
}

/// Draws a new store root key and seals it to every slot.
///
/// # Errors
/// As [`list`].
pub async fn rotate_root(args: Rotate, shell: &Shell) -> Result<Report, Failure> {
    let session = shell.session().await?;
    let dry_run = args.dry_run.dry_run;
    let (id, mutation) = mutation(dry_run);
    let request = pb::RotateRootRequest { mutation };
    let answer: pb::RotateRootResponse = session
        .change(
            "the store root key was not rotated",
            id,
            &request,
            |channel, request| async move { SlotsClient::new(channel).rotate_root(request).await },
        )
        .await?;
    let data = RotatedJson {
        keyring_number: answer.keyring_number,
        slots: answer.slots,
        changed: Changed::new(id, answer.committed, dry_run),
    };
    let text = format!(
        "the store root key {} by a new one, sealed to {}: keyring {}",
        data.changed.says("is replaced", "would be replaced"),
        counted(data.slots),
        data.keyring_number
    );
    let number = data.keyring_number.to_string();
    Report::new(&data, vec![number], Human::Text(text))
}

/// `1 slot`, `2 slots`.
fn counted(slots: u32) -> String {
    let noun = if slots == 1 { "slot" } else { "slots" };
    format!("{slots} {noun}")
}

/// The keyring's number, and every slot.
async fn views(session: &Session) -> Result<(u64, Vec<pb::SlotView>), Failure> {
    let number = std::cell::Cell::new(0);
    let number_of = &number;
    let slots = session
        .pages(|page| {
            let request = pb::ListSlotsRequest { page: Some(page) };
            async move {
                let answer: pb::ListSlotsResponse = session
                    .read(
                        "slots cannot be listed",
                        &request,
                        |channel, request| async move {
                            SlotsClient::new(channel).list_slots(request).await
                        },
                    )
                    .await?;
                number_of.set(answer.keyring_number);
                Ok((answer.slots, answer.next_token))
            }
        })
        .await?;
    Ok((number.get(), slots))
}
