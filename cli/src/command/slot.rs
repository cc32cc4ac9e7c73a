//! `attache slot`, the ways to open the store, and `attache key rotate --root`, the key that all of them open.

pub mod shares;
pub mod verify;

use std::path::PathBuf;

use attache_envelope::SystemRandom;
use attache_envelope::id::SlotId;
use attache_envelope::name::SlotName;
use attache_envelope::shares::ShareSet;
use attache_envelope::slot::passphrase::check_strength;
use attache_envelope::slot::{SlotKind, SlotVerb};
use attache_proto::attache::v1::{self as pb, slots_client::SlotsClient};
use serde::Serialize;
use uuid::Uuid;

use super::{Changed, Shell, or_dash, time, uuid_text};
use crate::args::key::Rotate;
use crate::args::slot::{AddKeyFile, AddKms, AddPassphrase, Remove};
use crate::failure::{Exit, Failure};
use crate::near::nearest;
use crate::output::{Human, Report};
use crate::session::{Session, mutation};
use crate::share::remove as remove_files;
use crate::slot_secret::{Begun, KeyFile, Purpose, begin, passphrase_of};
use crate::terminal::{ask_passphrase, confirm};

const NOT_MADE: &str = "no slot was made";

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
    /// Of a slot that shares open: how many of how many.
    #[serde(skip_serializing_if = "Option::is_none")]
    shares: Option<NumbersJson>,
}

#[derive(Debug, Serialize)]
struct NumbersJson {
    needed: u8,
    of: u8,
}

#[derive(Debug, Serialize)]
struct AddedJson {
    #[serde(flatten)]
    slot: SlotJson,
    /// The file that was made, of a key-file slot.
    #[serde(skip_serializing_if = "Option::is_none")]
    key_file: Option<String>,
    /// The files that were made, of a slot that shares open.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    share_files: Vec<String>,
    keyring_number: u64,
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
            // What does not read is not shown: the broker reads it when the slot is used.
            shares: ShareSet::decode(&slot.share_set)
                .ok()
                .map(|set| NumbersJson {
                    needed: set.threshold(),
                    of: set.count(),
                }),
        }
    }
}

impl SlotJson {
    /// The kind, and how many shares of how many it takes.
    fn kind_shown(&self) -> String {
        match &self.shares {
            None => self.kind.clone(),
            Some(NumbersJson { needed, of }) => format!("{}, {needed} of {of}", self.kind),
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
            slot.kind_shown(),
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
    let secret = KeyFile::random().map_err(|error| not_made(&error))?;
    let (id, request) = add_request(
        &session,
        SlotKind::KeyFile,
        args.name,
        Some(secret.expose()),
        dry_run,
    )
    .await?;
    if !dry_run {
        secret.create(&args.out).map_err(|error| not_made(&error))?;
    }
    let added = match send(&session, id, &request, dry_run).await {
        Ok(added) => added,
        Err(failure) if dry_run => return Err(failure),
        Err(failure) => return Err(left_behind(failure, &[args.out])),
    };
    let (name, file) = (added.slot.name.clone(), args.out.display().to_string());
    let text = format!(
        "slot {name} {}: whoever has {file} and the store has everything, so keep it apart from the store; see that it opens \
         with: attache slot verify {name} --key-file FILE",
        added.changed.says("is made", "would be made"),
    );
    let data = AddedJson {
        key_file: Some(file),
        ..added
    };
    Report::new(&data, vec![name], Human::Text(text))
}

/// Makes a slot that a passphrase opens.
///
/// # Errors
/// As [`list`]; [`Exit::Usage`] for a passphrase that is too weak, or was typed otherwise the second time.
pub async fn add_passphrase(args: AddPassphrase, shell: &Shell) -> Result<Report, Failure> {
    let passphrase = match &args.passphrase_file {
        Some(file) => passphrase_of(file, NOT_MADE)?,
        None => ask_passphrase(true)?,
    };
    check_strength(&passphrase).map_err(|weak| {
        Failure::new(Exit::Usage, NOT_MADE).caused_by(&weak).mend(
            "take words that were drawn, not chosen, and write them down where the store is not",
        )
    })?;
    let session = shell.session().await?;
    let dry_run = args.dry_run.dry_run;
    let kind = SlotKind::Passphrase;
    let (id, request) = add_request(&session, kind, args.name, Some(&passphrase), dry_run).await?;
    let data = send(&session, id, &request, dry_run).await?;
    let name = data.slot.name.clone();
    let text = format!(
        "slot {name} {}: whoever knows the passphrase and has the store has everything; see that it opens with: attache slot \
         verify {name}",
        data.changed.says("is made", "would be made"),
    );
    Report::new(&data, vec![name], Human::Text(text))
}

/// Makes a slot that the broker's KMS plugin opens; its secret is never here.
///
/// # Errors
/// As [`list`].
pub async fn add_kms(args: AddKms, shell: &Shell) -> Result<Report, Failure> {
    let session = shell.session().await?;
    let dry_run = args.dry_run.dry_run;
    let kind = SlotKind::Kms;
    let (id, request) = add_request(&session, kind, args.name, None, dry_run).await?;
    let data = send(&session, id, &request, dry_run).await?;
    let name = data.slot.name.clone();
    let text = format!(
        "slot {name} {}: whoever may call the KMS plugin and has the store has everything; see that it opens with: attache \
         slot verify {name}",
        data.changed.says("is made", "would be made"),
    );
    Report::new(&data, vec![name], Human::Text(text))
}

/// A request for a new slot, its secret sealed where one is sent.
async fn add_request(
    session: &Session,
    kind: SlotKind,
    name: Option<SlotName>,
    secret: Option<&[u8]>,
    dry_run: bool,
) -> Result<(Uuid, pb::AddSlotRequest), Failure> {
    let (slot, name) = new_slot(kind, name)?;
    let (id, mutation) = mutation(dry_run);
    let purpose = Purpose {
        verb: SlotVerb::Add,
        request: id,
        slot,
        kind,
        name: &name,
    };
    let secret = match secret {
        Some(secret) => Some(sealed(session, &purpose, secret, NOT_MADE).await?),
        None => None,
    };
    let request = pb::AddSlotRequest {
        mutation,
        slot: slot.as_bytes().to_vec(),
        name,
        kind: kind.name().to_owned(),
        secret,
        share_set: Vec::new(),
    };
    Ok((id, request))
}

/// The uuid of a new slot, and its name, made up where none is given.
fn new_slot(kind: SlotKind, name: Option<SlotName>) -> Result<(SlotId, String), Failure> {
    let slot = SlotId::random(&SystemRandom).map_err(|error| not_made(&error))?;
    let made_up = || {
        let id = slot.to_string();
        format!("{}-{}", kind.name(), id.get(..8).unwrap_or_default())
    };
    Ok((slot, name.map_or_else(made_up, |name| name.to_string())))
}

/// A secret, sealed to the broker for one request.
async fn sealed(
    session: &Session,
    purpose: &Purpose<'_>,
    secret: &[u8],
    what: &str,
) -> Result<pb::SealedSecret, Failure> {
    let begun = begin(session, what).await?;
    sealed_to(&begun, session, purpose, secret, what)
}

fn sealed_to(
    begun: &Begun,
    session: &Session,
    purpose: &Purpose<'_>,
    secret: &[u8],
    what: &str,
) -> Result<pb::SealedSecret, Failure> {
    let broker = session.broker().to_string();
    let sealed = begun.seal(session.operator(), &broker, purpose, secret);
    sealed.map_err(|error| Failure::new(Exit::Failed, what).caused_by(&error))
}

async fn send(
    session: &Session,
    id: Uuid,
    request: &pb::AddSlotRequest,
    dry_run: bool,
) -> Result<AddedJson, Failure> {
    let answer: pb::AddSlotResponse = session
        .change(NOT_MADE, id, request, |channel, request| async move {
            SlotsClient::new(channel).add_slot(request).await
        })
        .await?;
    Ok(AddedJson {
        slot: answer.slot.unwrap_or_default().into(),
        key_file: None,
        share_files: Vec::new(),
        keyring_number: answer.keyring_number,
        changed: Changed::new(id, answer.committed, dry_run),
    })
}

fn not_made(error: &(dyn std::error::Error + 'static)) -> Failure {
    Failure::new(Exit::Failed, NOT_MADE).caused_by(error)
}

/// A key file whose slot was refused opens nothing, and goes; where the slot may be there, it stays.
fn left_behind(failure: Failure, files: &[PathBuf]) -> Failure {
    match failure.exit {
        Exit::Usage | Exit::Precondition => match remove_files(files) {
            Ok(()) => failure,
            Err(left) => failure.mend(format!("remove {left}: nothing is opened by it")),
        },
        // Whoever is refused as a caller may have been heard before: an attempt whose answer was lost is made again.
        Exit::Denied
        | Exit::NotSignedIn
        | Exit::Done
        | Exit::Failed
        | Exit::Unavailable
        | Exit::Partly
        | Exit::Found
        | Exit::Interrupted => {
            let shown = files.iter().map(|file| file.display().to_string());
            let shown = shown.collect::<Vec<_>>().join(", ");
            failure.mend(format!(
                "see whether the slot is there: attache slot list; if it is, it is opened by {shown}, and if not, remove what was made"
            ))
        }
    }
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
