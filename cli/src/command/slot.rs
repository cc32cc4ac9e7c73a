//! `attache slot`, the ways to open the store, and `attache key rotate --root`, the key that all of them open.

use attache_proto::attache::v1::{self as pb, slots_client::SlotsClient};
use serde::Serialize;

use super::{Changed, Shell, or_dash, time, uuid_text};
use crate::args::key::Rotate;
use crate::failure::Failure;
use crate::output::{Human, Report};
use crate::session::{Session, mutation};

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
    let (keyring_number, slots) = all(&session).await?;
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
async fn all(session: &Session) -> Result<(u64, Vec<SlotJson>), Failure> {
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
    Ok((
        number.get(),
        slots.into_iter().map(SlotJson::from).collect(),
    ))
}
