//! `attache key`.

pub mod audit;
pub mod ca;
mod follow;
pub mod mac;

use attache_envelope::name::Keyspace;
use attache_proto::attache::v1::{self as pb, keys_client::KeysClient};
use jiff::Timestamp;
use serde::Serialize;
use uuid::Uuid;

use follow::{RewrapJson, follow, rewraps};

use super::{Changed, Shell, held, or_dash, time, uuid_text};
use crate::args::key::{Destroy, Of, Rotate, Status};
use crate::failure::Failure;
use crate::output::{Console, Human, Report};
use crate::session::{Session, mutation};
use crate::terminal::confirm;

#[derive(Debug, Serialize)]
struct KeyJson {
    key: String,
    keyspace: String,
    epoch: u32,
    key_id: String,
    state: String,
    created: Option<String>,
    changed: Option<String>,
    values: u64,
    /// How often it has wrapped, as far as the broker knows.
    wraps: u64,
    /// When it wrapped or unwrapped last; null: not since the broker's start.
    last_used: Option<String>,
    /// When the active key is too old; null without such a limit.
    due: Option<String>,
    /// What the active key is past.
    overdue: Option<String>,
}

/// How the keys of one keyspace are.
#[derive(Debug, Default, Serialize)]
struct StatusJson {
    keyspace: String,
    /// The active one.
    key: Option<String>,
    created: Option<String>,
    values: u64,
    /// How often the active one has wrapped, as far as the broker knows.
    wraps: u64,
    /// When it wrapped or unwrapped last; null: not since the broker's start.
    last_used: Option<String>,
    /// When it is too old; null without such a limit.
    due: Option<String>,
    /// What it is past.
    overdue: Option<String>,
    /// Values of keys that are decrypt-only: still to be wrapped under the active one.
    behind: u64,
    /// How far those are.
    rewraps: Vec<RewrapJson>,
    /// Keys that nothing refers to, and that are not destroyed.
    retired: Vec<String>,
}

#[derive(Debug, Serialize)]
struct RotatedJson {
    keyspace: String,
    /// The one that wraps from now on.
    key: String,
    /// The one before.
    previous: String,
    /// Whether all values of that one are wrapped again, as far as was waited for.
    rewrapped: bool,
    #[serde(flatten)]
    changed: Changed,
}

#[derive(Debug, Serialize)]
struct DestroyedJson {
    key: String,
    key_id: String,
    /// What is still to be known of it.
    statement: String,
    /// The backups on record that have it, newest first.
    backups: Vec<held::ByJson>,
    /// How many there are.
    backup_count: u64,
    #[serde(flatten)]
    changed: Changed,
}

/// Lists keys.
///
/// # Errors
/// As [`crate::status`] says, here and below.
pub async fn list(args: Of, shell: &Shell) -> Result<Report, Failure> {
    let session = shell.session().await?;
    let views = views(&session, &args).await?;
    let now = Timestamp::now();
    let rows = views
        .iter()
        .map(|view| {
            vec![
                name(view),
                view.state.clone(),
                age(view.created, now),
                age(view.changed, now),
                view.values.to_string(),
                last_used(view, now),
            ]
        })
        .collect();
    let keys: Vec<_> = views.iter().map(key_json).collect();
    let names = views.iter().map(name).collect();
    let heads = &["KEY", "STATE", "AGE", "IN STATE", "VALUES", "LAST USED"];
    let human = Human::Table { heads, rows };
    Report::new(&serde_json::json!({ "keys": keys }), names, human)
}

/// Shows how each keyspace's keys are.
///
/// # Errors
/// As [`list`]; those of waiting.
pub async fn status(args: Status, shell: &Shell) -> Result<Report, Failure> {
    let session = shell.session().await?;
    let keyspace = args.of.keyspace.as_ref().map(ToString::to_string);
    let keyspace = keyspace.unwrap_or_default();
    if args.wait {
        follow(&session, &keyspace, None, &shell.console).await?;
    }
    let (views, under_way) = (
        views(&session, &args.of).await?,
        rewraps(&session, &keyspace).await?,
    );
    let now = Timestamp::now();
    let mut keyspaces: Vec<StatusJson> = Vec::new();
    let mut ages = Vec::new();
    for of_one in views.chunk_by(|a, b| a.keyspace == b.keyspace) {
        let active = of_one.iter().find(|view| view.state == "active");
        let age = age(active.and_then(|view| view.created), now);
        ages.push((
            age,
            active.map_or_else(|| "-".to_owned(), |it| due(it, now)),
        ));
        keyspaces.push(status_json(of_one, active, &under_way));
    }
    let rows = keyspaces
        .iter()
        .zip(ages)
        .map(|(status, (age, due))| {
            let rewraps: Vec<_> = status.rewraps.iter().map(ToString::to_string).collect();
            vec![
                status.keyspace.clone(),
                or_dash(status.key.as_deref()),
                age,
                due,
                status.wraps.to_string(),
                status.values.to_string(),
                status.behind.to_string(),
                or_dash(Some(&rewraps.join("; "))),
                or_dash(Some(&status.retired.join(", "))),
            ]
        })
        .collect();
    let names = keyspaces.iter().map(|it| it.keyspace.clone()).collect();
    let human = Human::Table {
        heads: &[
            "KEYSPACE",
            "ACTIVE KEY",
            "AGE",
            "DUE",
            "WRAPS",
            "VALUES",
            "BEHIND",
            "REWRAP",
            "RETIRED",
        ],
        rows,
    };
    Report::new(&serde_json::json!({ "keyspaces": keyspaces }), names, human)
}

/// Gives a keyspace a new key.
///
/// # Errors
/// As [`list`]; [`crate::failure::Exit::Precondition`] when somebody else was faster; those of waiting.
pub async fn rotate(of: Keyspace, args: Rotate, shell: &Shell) -> Result<Report, Failure> {
    let session = shell.session().await?;
    let keyspace = of.to_string();
    // What would change is asked for first, and then that it is still so: whoever rotates at the same time is told.
    let planned = ask_rotation(&session, &keyspace, &args, 0, true).await?;
    let dry_run = args.dry_run.dry_run;
    let (changed, answer) = if dry_run {
        planned
    } else {
        ask_rotation(&session, &keyspace, &args, planned.1.previous_epoch, false).await?
    };
    let key = format!("{keyspace}@{}", answer.epoch);
    let previous = format!("{keyspace}@{}", answer.previous_epoch);
    let waits = !dry_run && !args.no_wait;
    if waits {
        shell.console.hint(&format!(
            "{key} is the active key; the values of {previous} are being wrapped again under it"
        ));
        follow(&session, &keyspace, args.wait, &shell.console).await?;
    }
    let text = if dry_run {
        format!(
            "{key} would be the active key, and the values of {previous} be wrapped again under it"
        )
    } else if waits {
        format!(
            "{key} is the active key, and {previous} is retired: nothing is wrapped under it any more, see: attache key destroy {previous}"
        )
    } else {
        format!(
            "{key} is the active key; the values of {previous} are being wrapped again, see: attache key status {keyspace} --wait"
        )
    };
    let rotated = RotatedJson {
        keyspace,
        key: key.clone(),
        previous,
        rewrapped: waits,
        changed,
    };
    Report::new(&rotated, vec![key], Human::Text(text))
}

async fn ask_rotation(
    session: &Session,
    keyspace: &str,
    args: &Rotate,
    expected_epoch: u32,
    dry_run: bool,
) -> Result<(Changed, pb::RotateKeyResponse), Failure> {
    let (id, mutation) = mutation(dry_run);
    let request = pb::RotateKeyRequest {
        mutation,
        keyspace: keyspace.to_owned(),
        expected_epoch,
        rate: args.rate.unwrap_or_default(),
    };
    let answer: pb::RotateKeyResponse = session
        .change(
            &format!("the key of {keyspace} was not rotated"),
            id,
            &request,
            |channel, request| async move { KeysClient::new(channel).rotate_key(request).await },
        )
        .await?;
    Ok((Changed::new(id, answer.committed, dry_run), answer))
}

/// Destroys a retired key.
///
/// # Errors
/// As [`list`]; when the name is not confirmed; [`crate::failure::Exit::Precondition`] when the key is not retired, or a
/// value still needs it.
pub async fn destroy(args: Destroy, shell: &Shell) -> Result<Report, Failure> {
    let (key, dry_run) = (args.key.to_string(), args.dry_run.dry_run);
    if !dry_run {
        confirm(
            &format!("Key {key} will be destroyed for good"),
            &key,
            args.yes,
        )?;
    }
    let session = shell.session().await?;
    let (id, mutation) = mutation(dry_run);
    let request = pb::DestroyKeyRequest {
        mutation,
        keyspace: args.key.keyspace.to_string(),
        epoch: args.key.epoch.get(),
        now: args.now,
    };
    let answer = looked(&session, id, &key, &request, &shell.console).await?;
    let changed = Changed::new(id, answer.committed, dry_run);
    let backups = held::by(&answer.backups);
    let still = held::told(&backups, answer.backup_count);
    let text = if dry_run {
        format!("no value needs {key}: it would be destroyed; {still}")
    } else {
        format!(
            "{key} is gone from the live store at seq {}; {}; {still}",
            changed.seq, answer.statement
        )
    };
    let destroyed = DestroyedJson {
        key: key.clone(),
        key_id: uuid_text(&answer.key_id),
        statement: answer.statement,
        backups,
        backup_count: answer.backup_count,
        changed,
    };
    Report::new(&destroyed, vec![key], Human::Text(text))
}

/// Asks until every value was looked at: the broker does that once, however often it is asked.
async fn looked(
    session: &Session,
    id: Uuid,
    key: &str,
    request: &pb::DestroyKeyRequest,
    console: &Console,
) -> Result<pb::DestroyKeyResponse, Failure> {
    let what = format!("key {key} was not destroyed");
    loop {
        let answer: pb::DestroyKeyResponse = session
            .change(&what, id, request, |channel, request| async move {
                KeysClient::new(channel).destroy_key(request).await
            })
            .await?;
        let Some(pb::Look { looked, of }) = answer.looking else {
            return Ok(answer);
        };
        console.hint(&format!(
            "{looked} of {of} values were looked at for one that needs {key}"
        ));
    }
}

fn status_json(
    of_one: &[pb::KeyView],
    active: Option<&pb::KeyView>,
    under_way: &[pb::Rewrap],
) -> StatusJson {
    let in_state = |state: &'static str| of_one.iter().filter(move |view| view.state == state);
    let keyspace = of_one.first().map(|view| view.keyspace.clone());
    let keyspace = keyspace.unwrap_or_default();
    let of_this = under_way.iter().filter(|it| it.keyspace == keyspace);
    StatusJson {
        rewraps: of_this.map(RewrapJson::new).collect(),
        key: active.map(name),
        keyspace,
        created: active.and_then(|view| time(view.created)),
        values: active.map(|view| view.values).unwrap_or_default(),
        wraps: active.map(|view| view.wraps).unwrap_or_default(),
        last_used: active.and_then(|view| time(view.last_used)),
        due: active.and_then(|view| time(view.due)),
        overdue: active.and_then(overdue),
        behind: in_state("decrypt-only").map(|view| view.values).sum(),
        retired: in_state("retired").map(name).collect(),
    }
}

fn key_json(view: &pb::KeyView) -> KeyJson {
    KeyJson {
        key: name(view),
        keyspace: view.keyspace.clone(),
        epoch: view.epoch,
        key_id: uuid_text(&view.key_id),
        state: view.state.clone(),
        created: time(view.created),
        changed: time(view.changed),
        values: view.values,
        wraps: view.wraps,
        last_used: time(view.last_used),
        due: time(view.due),
        overdue: overdue(view),
    }
}

/// What the active key is past.
fn overdue(view: &pb::KeyView) -> Option<String> {
    Some(view.overdue.clone()).filter(|it| !it.is_empty())
}

/// How long ago a key wrapped or unwrapped; the broker knows that since its start.
fn last_used(view: &pb::KeyView, now: Timestamp) -> String {
    match view.last_used {
        Some(at) => age(Some(at), now),
        None => "not since start".to_owned(),
    }
}

/// In how long a key is too old.
fn due(view: &pb::KeyView, now: Timestamp) -> String {
    if !view.overdue.is_empty() {
        return "overdue".to_owned();
    }
    let at = view.due;
    let at = at.and_then(|at| Timestamp::from_millisecond(at.unix_ms).ok());
    at.map_or_else(
        || "-".to_owned(),
        |at| span(at.duration_since(now).as_secs()),
    )
}

/// `KEYSPACE@EPOCH`
fn name(view: &pb::KeyView) -> String {
    format!("{}@{}", view.keyspace, view.epoch)
}

/// How long ago that was, in its largest unit; a time ahead, by another clock, is now.
fn age(at: Option<pb::Time>, now: Timestamp) -> String {
    let Some(at) = at.and_then(|at| Timestamp::from_millisecond(at.unix_ms).ok()) else {
        return "-".to_owned();
    };
    span(now.duration_since(at).as_secs())
}

/// A time in its largest unit; none is negative.
fn span(seconds: i64) -> String {
    match seconds.max(0) {
        seconds @ ..60 => format!("{seconds}s"),
        seconds @ 60..3_600 => format!("{}min", seconds / 60),
        seconds @ 3_600..86_400 => format!("{}h", seconds / 3_600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

async fn views(session: &Session, of: &Of) -> Result<Vec<pb::KeyView>, Failure> {
    let keyspace = of.keyspace.as_ref().map(ToString::to_string);
    let keyspace = keyspace.unwrap_or_default();
    session
        .pages(|page| {
            let request = pb::ListKeysRequest {
                keyspace: keyspace.clone(),
                page: Some(page),
            };
            async move {
                let answer: pb::ListKeysResponse = session
                    .read(
                        "keys cannot be listed",
                        &request,
                        |channel, request| async move {
                            KeysClient::new(channel).list_keys(request).await
                        },
                    )
                    .await?;
                Ok((answer.keys, answer.next_token))
            }
        })
        .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_has_one_unit_and_no_future() {
        let now = Timestamp::from_millisecond(1_800_000_000_000).unwrap();
        let ago = |seconds: i64| {
            let unix_ms = 1_800_000_000_000 - seconds * 1000;
            age(Some(pb::Time { unix_ms }), now)
        };
        assert_eq!(
            [ago(-5), ago(59), ago(60), ago(7_300), ago(200_000)],
            ["0s", "59s", "1min", "2h", "2d"]
        );
        assert_eq!(age(None, now), "-");
    }

    #[test]
    fn a_key_says_when_it_is_due_and_when_it_was_used() {
        let now = Timestamp::from_millisecond(1_800_000_000_000).unwrap();
        let at = |seconds: i64| {
            let unix_ms = 1_800_000_000_000 + seconds * 1000;
            Some(pb::Time { unix_ms })
        };
        let mut view = pb::KeyView::default();
        assert_eq!(due(&view, now), "-");
        assert_eq!(last_used(&view, now), "not since start");
        (view.due, view.last_used) = (at(90 * 86_400), at(-61));
        assert_eq!(due(&view, now), "90d");
        assert_eq!(last_used(&view, now), "1min");
        view.overdue = "it is 91 days old".into();
        assert_eq!(due(&view, now), "overdue");
    }

    #[test]
    fn a_keyspaces_status_sums_up_its_keys() {
        let view = |epoch: u32, state: &str, values: u64| pb::KeyView {
            keyspace: "payments".into(),
            epoch,
            state: state.into(),
            values,
            ..Default::default()
        };
        let keys = [
            view(1, "destroyed", 0),
            view(2, "retired", 0),
            view(3, "decrypt-only", 5),
            view(4, "decrypt-only", 2),
            view(5, "active", 9),
        ];
        let of = |keyspace: &str| pb::Rewrap {
            keyspace: keyspace.into(),
            ..Default::default()
        };
        let status = status_json(&keys, keys.last(), &[of("payments"), of("web")]);
        assert_eq!(status.rewraps.len(), 1);
        assert_eq!(status.key.as_deref(), Some("payments@5"));
        assert_eq!((status.values, status.behind), (9, 7));
        assert_eq!(status.retired, ["payments@2"]);
    }
}
