//! `attache key rotate --ca` and `attache key status --ca`: the CA that signs nodes and operators.

use attache_proto::attache::v1::{self as pb, keys_client::KeysClient};
use serde::Serialize;

use super::{Changed, Shell, or_dash, time};
use crate::args::key::Rotate;
use crate::command::hex;
use crate::failure::Failure;
use crate::output::{Human, Report};
use crate::session::{Session, mutation};
use crate::terminal::confirm;

/// So many names are said at a question; the list has more.
const ASKED_ABOUT: usize = 10;

#[derive(Debug, Serialize)]
struct CaJson {
    epoch: u32,
    /// SHA-256 of its SubjectPublicKeyInfo.
    key: String,
    state: String,
    since: Option<String>,
    not_after: Option<String>,
}

#[derive(Debug, Serialize)]
struct NeedJson {
    spiffe_id: String,
    name: String,
    until: Option<String>,
}

impl From<pb::CaNeed> for NeedJson {
    fn from(need: pb::CaNeed) -> Self {
        Self {
            spiffe_id: need.spiffe_id,
            name: need.name,
            until: time(need.until),
        }
    }
}

#[derive(Debug, Serialize)]
struct StatusJson {
    cas: Vec<CaJson>,
    /// Who knows the CA before alone; the first 100.
    needed_by: Vec<NeedJson>,
    needed_count: u32,
    open_tokens: bool,
    unpublished: bool,
}

#[derive(Debug, Serialize)]
struct RotatedJson {
    epoch: u32,
    key: String,
    keyring_number: u64,
    /// Who is cut off by `--now`; the first 100.
    cut_off: Vec<NeedJson>,
    cut_off_count: u32,
    #[serde(flatten)]
    changed: Changed,
}

#[derive(Debug, Serialize)]
struct DroppedJson {
    epoch: u32,
    cut_off: Vec<NeedJson>,
    cut_off_count: u32,
    #[serde(flatten)]
    changed: Changed,
}

/// Shows the CA, and how far a rotation of it is.
///
/// # Errors
/// As [`crate::status`] says, here and below.
pub async fn status(shell: &Shell) -> Result<Report, Failure> {
    let session = shell.session().await?;
    let answer = shown(&session).await?;
    let mut rows = Vec::new();
    let count = answer.needed_count;
    for ca in &answer.cas {
        let of_before = ca.state != "active";
        let mut waits = Vec::new();
        if of_before && count > 0 {
            waits.push(format!("{count} without the new one"));
        }
        if of_before && answer.open_tokens {
            waits.push("open tokens or codes".to_owned());
        }
        if of_before && answer.unpublished {
            waits.push("the bundle's publication".to_owned());
        }
        rows.push(vec![
            format!("ca@{}", ca.epoch),
            ca.state.clone(),
            or_dash(time(ca.not_after).as_deref()),
            or_dash(Some(&waits.join(", "))),
        ]);
    }
    for need in &answer.needed_by {
        rows.push(vec![
            need.spiffe_id.clone(),
            need.name.clone(),
            or_dash(time(need.until).as_deref()),
            "has not renewed".to_owned(),
        ]);
    }
    let names = answer.cas.iter().map(|ca| format!("ca@{}", ca.epoch));
    let names = names.collect();
    let data = StatusJson {
        cas: answer.cas.into_iter().map(ca_json).collect(),
        needed_by: answer.needed_by.into_iter().map(NeedJson::from).collect(),
        needed_count: count,
        open_tokens: answer.open_tokens,
        unpublished: answer.unpublished,
    };
    let heads = &["CA", "STATE", "UNTIL", "WAITS FOR"];
    Report::new(&data, names, Human::Table { heads, rows })
}

/// Gives the broker a new CA, or drops the one before.
///
/// # Errors
/// As [`status`]; [`crate::failure::Exit::Precondition`] while the one before is still there, or when there is none.
pub async fn rotate(args: Rotate, shell: &Shell) -> Result<Report, Failure> {
    if let Some(epoch) = args.drop {
        return drop_before(epoch, &args, shell).await;
    }
    let session = shell.session().await?;
    let dry_run = args.dry_run.dry_run;
    if args.now && !dry_run {
        ask_whether_now(&session, &args).await?;
    }
    let (id, mutation) = mutation(dry_run);
    let request = pb::RotateCaRequest {
        mutation,
        reason: String::new(),
        now: args.now,
    };
    let answer: pb::RotateCaResponse = session
        .change(
            "the CA was not rotated",
            id,
            &request,
            |channel, request| async move { KeysClient::new(channel).rotate_ca(request).await },
        )
        .await?;
    let data = RotatedJson {
        epoch: answer.epoch,
        key: hex(&answer.key),
        keyring_number: answer.keyring_number,
        cut_off: answer.cut_off.into_iter().map(NeedJson::from).collect(),
        cut_off_count: answer.cut_off_count,
        changed: Changed::new(id, answer.committed, dry_run),
    };
    let signs = data.changed.says("signs", "would sign");
    let text = if args.now {
        let says = data.changed.says("is", "would be");
        format!(
            "ca@{} {signs} nodes and operators, and no other {says} trusted, cut off: {}; how they come back: docs/operations/keys.md",
            data.epoch, data.cut_off_count
        )
    } else {
        format!(
            "ca@{} {signs} nodes and operators; the CA before is trusted until nobody needs it, see: attache key status --ca",
            data.epoch
        )
    };
    let name = format!("ca@{}", data.epoch);
    Report::new(&data, vec![name], Human::Text(text))
}

async fn ask_whether_now(session: &Session, args: &Rotate) -> Result<(), Failure> {
    let answer = shown(session).await?;
    let active = answer.cas.iter().find(|ca| ca.state == "active");
    let name = format!("ca@{}", active.map_or(0, |ca| ca.epoch));
    confirm(
        &format!(
            "{name} will be trusted no more, with all that it signed: every node and every operator is cut off, you too, and has to \
             enroll or sign in anew. Have somebody at the broker's machine"
        ),
        &name,
        args.yes,
    )
}

async fn drop_before(epoch: u32, args: &Rotate, shell: &Shell) -> Result<Report, Failure> {
    let session = shell.session().await?;
    let dry_run = args.dry_run.dry_run;
    let name = format!("ca@{epoch}");
    if !dry_run {
        let answer = shown(&session).await?;
        let first = answer.needed_by.iter().take(ASKED_ABOUT);
        let first: Vec<_> = first.map(|need| need.spiffe_id.as_str()).collect();
        let who = match answer.needed_count {
            0 => "nobody is cut off".to_owned(),
            count => format!(
                "{count} are cut off and have to enroll or sign in anew: {}",
                first.join(", ")
            ),
        };
        confirm(
            &format!("{name} will be trusted no more: {who}"),
            &name,
            args.yes,
        )?;
    }
    let (id, mutation) = mutation(dry_run);
    let request = pb::DropCaRequest {
        mutation,
        epoch,
        reason: String::new(),
    };
    let answer: pb::DropCaResponse = session
        .change(
            &format!("{name} was not dropped"),
            id,
            &request,
            |channel, request| async move { KeysClient::new(channel).drop_ca(request).await },
        )
        .await?;
    let data = DroppedJson {
        epoch,
        cut_off: answer.cut_off.into_iter().map(NeedJson::from).collect(),
        cut_off_count: answer.cut_off_count,
        changed: Changed::new(id, answer.committed, dry_run),
    };
    let text = format!(
        "{name} {} trusted no more, cut off: {}",
        data.changed.says("is", "would be"),
        data.cut_off_count
    );
    Report::new(&data, vec![name], Human::Text(text))
}

fn ca_json(ca: pb::CaView) -> CaJson {
    CaJson {
        epoch: ca.epoch,
        key: hex(&ca.key),
        state: ca.state,
        since: time(ca.since),
        not_after: time(ca.not_after),
    }
}

async fn shown(session: &Session) -> Result<pb::ShowCaResponse, Failure> {
    session
        .read(
            "the CA cannot be shown",
            &pb::ShowCaRequest {},
            |channel, request| async move { KeysClient::new(channel).show_ca(request).await },
        )
        .await
}
