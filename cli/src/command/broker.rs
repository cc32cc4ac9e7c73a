//! `attache broker`: whether it is sealed, sealing it, opening it.

mod shares;

use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use attache_envelope::key::KEY_BYTES;
use attache_envelope::name::SlotName;
use attache_envelope::slot::SlotKind;
use attache_envelope::unseal::fingerprint;
use attache_proto::attache::v1::{self as pb, sealing_client::SealingClient};
use serde::Serialize;
use zeroize::Zeroizing;

use self::shares::CeremonyJson;
use super::{Changed, Shell, hex, time};
use crate::args::Yes;
use crate::args::broker::{Seal, Status, Unseal};
use crate::failure::{Exit, Failure};
use crate::near::nearest;
use crate::output::{Console, Human, Report};
use crate::session::mutation;
use crate::slot_secret::{KeyFile, passphrase_of};
use crate::terminal::{ask_passphrase, confirm};
use crate::unseal::{self, Door, Given, SealedBroker, SealedSlot, Secret, Tried, derived};

const NOT_OPENED: &str = "the broker was not opened";
/// How long a broker that has too many attempts to try is waited for.
const WAITS: Duration = Duration::from_secs(60);

#[derive(Debug, Serialize)]
struct StatusJson {
    broker: String,
    store: String,
    sealed: bool,
    /// Whether an operator sealed it.
    by_operator: bool,
    /// That operator's SPIFFE ID, where the broker could read it.
    sealed_by: Option<String>,
    /// And when, RFC 3339.
    sealed_at: Option<String>,
    /// What opens it, while it is sealed.
    slots: Vec<SlotJson>,
    /// SHA-256 of the key that secrets are sealed to, while it is sealed.
    boot_key: Option<String>,
}

#[derive(Debug, Serialize)]
struct SlotJson {
    name: String,
    slot: String,
    kind: String,
    /// Where the shares stand that open it.
    #[serde(skip_serializing_if = "Option::is_none")]
    ceremony: Option<CeremonyJson>,
}

#[derive(Debug, Serialize)]
struct SealedJson {
    broker: String,
    /// Why the audit log does not have it yet.
    not_on_record: Option<String>,
    /// Why it ends with the process.
    not_kept: Option<String>,
    #[serde(flatten)]
    changed: Changed,
}

#[derive(Debug, Serialize)]
struct UnsealedJson {
    broker: String,
    /// The slot that opened, where it was opened now.
    slot: Option<String>,
    serving: bool,
    /// Where the shares stand, after one was taken and more are needed.
    #[serde(skip_serializing_if = "Option::is_none")]
    ceremony: Option<CeremonyJson>,
}

/// Says whether the broker is sealed.
///
/// # Errors
/// As [`crate::status`] says, here and below.
pub async fn status(args: Status, shell: &Shell) -> Result<Report, Failure> {
    let settings = shell.settings()?;
    let (_, context) = settings.pick(shell.context()?.as_deref())?;
    let door = Door::of(&settings, context, args.enroll.enroll.as_deref())?;
    let seal = door
        .seal("it is not known whether the broker is sealed")
        .await?;
    let sealed = seal.sealed.as_ref();
    let slots = sealed.map(|it| it.slots.as_slice()).unwrap_or_default();
    let data = StatusJson {
        broker: context.broker.to_string(),
        store: seal.store.to_string(),
        sealed: sealed.is_some(),
        by_operator: sealed.is_some_and(|it| it.by_operator),
        sealed_by: sealed.and_then(|it| it.sealed_by.clone()),
        sealed_at: sealed.and_then(|it| time(it.sealed_at)),
        slots: slots.iter().map(SlotJson::of).collect(),
        boot_key: sealed.map(shown),
    };
    let mut card = vec![
        ("broker", data.broker.clone()),
        ("store", data.store.clone()),
    ];
    match sealed {
        None => card.push(("state", "open".to_owned())),
        Some(it) => {
            card.push(("state", state(&data)));
            card.push(("opened by", named(slots)));
            card.extend(slots.iter().filter_map(shares::line));
            card.push(("boot key", shown(it)));
        }
    }
    let report = Report::new(&data, vec![data.broker.clone()], Human::Card(card))?;
    Ok(if data.sealed { report.found() } else { report })
}

/// What a sealed broker waits for.
fn state(data: &StatusJson) -> String {
    if !data.by_operator {
        return "sealed: it goes on trying what its settings name".to_owned();
    }
    let by = match (&data.sealed_at, &data.sealed_by) {
        (Some(at), Some(by)) => format!("since {at} ({by})"),
        _ => "(the note of it cannot be read)".to_owned(),
    };
    format!("sealed by an operator {by}: it does not open by itself, also not after a restart")
}

/// Seals the broker.
///
/// # Errors
/// As there; when the name is not confirmed.
pub async fn seal(args: Seal, shell: &Shell) -> Result<Report, Failure> {
    const WHAT: &str = "the broker was not sealed";
    let session = shell.session().await?;
    let dry_run = args.dry_run.dry_run;
    let broker = session.broker().to_string();
    if !dry_run {
        let asked = format!(
            "{broker} will end what runs, wipe every key and release nothing before somebody opens it by a slot. What is mounted stays"
        );
        confirm(&asked, session.broker().name(), args.yes)?;
    }
    let (id, mutation) = mutation(dry_run);
    let request = pb::SealBrokerRequest {
        mutation,
        reason: args.reason.unwrap_or_default(),
    };
    let sent = session.change(WHAT, id, &request, |channel, request| async move {
        SealingClient::new(channel).seal_broker(request).await
    });
    let answer: pb::SealBrokerResponse = sent.await.map_err(|failure| {
        if failure.exit == Exit::Unavailable {
            return failure.mend("it may be sealed although no answer came: attache broker status");
        }
        failure
    })?;
    let told = |why: String| Some(why).filter(|why| !why.is_empty());
    let data = SealedJson {
        broker,
        not_on_record: told(answer.not_on_record),
        not_kept: told(answer.not_kept),
        changed: Changed::new(id, answer.committed, dry_run),
    };
    let says = data.changed.says("is sealed", "would be sealed");
    let mut lines = vec![format!(
        "{} {says}; open it with: attache broker unseal",
        data.broker
    )];
    lines.extend(data.not_on_record.as_ref().map(|why| {
        format!("it is not in the audit log, and comes there when the broker is opened: {why}")
    }));
    lines.extend(data.not_kept.as_ref().map(|why| {
        format!(
            "it holds until the process ends, and a restart opens the broker by what its settings name, since it could not be \
             written down: {why}"
        )
    }));
    let partly = lines.len() > 1;
    let report = Report::new(&data, vec![data.broker.clone()], Human::Lines(lines))?;
    Ok(if partly { report.partly() } else { report })
}

/// Opens a sealed broker by a key file, a passphrase, or the last share that is needed.
///
/// # Errors
/// As there; [`Exit::Precondition`] when nothing that was given opens a slot.
pub async fn unseal(args: Unseal, shell: &Shell) -> Result<Report, Failure> {
    let settings = shell.settings()?;
    let (_, context) = settings.pick(shell.context()?.as_deref())?;
    let door = Door::of(&settings, context, args.enroll.enroll.as_deref())?;
    let broker = context.broker.to_string();
    let seal = door.seal(NOT_OPENED).await?;
    let Some(sealed) = &seal.sealed else {
        return unsealed(&door, broker, None).await;
    };
    compare(args.boot_key.as_deref(), sealed)?;
    if let Some(file) = &args.share {
        return shares::give(
            &door,
            broker,
            &seal,
            sealed,
            (file.as_path(), args.slot.as_ref()),
            &shell.console,
        )
        .await;
    }
    let held = Held::of(&args, sealed)?;
    for slot in held.fits(&args, sealed)? {
        let secret = held.secret(slot)?;
        let of = (&seal, sealed, slot);
        match give(&door, of, secret.as_slice(), &shell.console).await? {
            Given::Opened => return unsealed(&door, broker, Some(slot.name.clone())).await,
            // A slot that takes shares is not tried with a secret.
            Given::IsAnothers | Given::Taken(_) => {}
        }
    }
    Err(Failure::new(Exit::Precondition, NOT_OPENED)
        .because(format!("{} opens none of its slots", held.name()))
        .mend(format!("it has these: {}", named(&sealed.slots))))
}

/// Gives what opens a slot, or a share of it. Where others are tried first, it waits for them.
async fn give(
    door: &Door,
    (seal, sealed, slot): (&unseal::Seal, &SealedBroker, &SealedSlot),
    secret: &[u8],
    console: &Console,
) -> Result<Given, Failure> {
    let begun = Instant::now();
    loop {
        let tried = door.unseal(seal, sealed, slot, secret, NOT_OPENED).await?;
        let after = match tried {
            Tried::Given(given) => return Ok(given),
            Tried::NotYet(after) => after,
        };
        if begun.elapsed() + after >= WAITS {
            return Err(Failure::new(Exit::Unavailable, NOT_OPENED)
                .because(format!(
                    "the broker has had too many attempts to try for {WAITS:?}"
                ))
                .mend("try again, or have it opened on its machine: attache-broker unseal"));
        }
        let wait = after.as_secs_f32();
        console.hint(&format!(
            "the broker has too many attempts to try: waiting {wait:.1} s"
        ));
        tokio::time::sleep(after).await;
    }
}

/// Before anything that opens a slot is read or sent: that it goes to the key that the broker's own log names. Whoever has a
/// copy of the broker's disk can answer in its place, and not write into its log.
fn compare(expected: Option<&str>, sealed: &SealedBroker) -> Result<(), Failure> {
    let found = shown(sealed);
    let Some(expected) = expected else {
        let (start, _) = found.split_at(8);
        let goes = format!(
            "what opens a slot goes to whoever has the boot key {found}: it must be boot_key in the broker's log, or another \
             one answers in its place"
        );
        if !io::stdin().is_terminal() {
            return Err(Failure::usage(NOT_OPENED)
                .because("nobody can be asked whether the right broker answers: standard input is no terminal")
                .mend("give the last boot_key of the broker's log: --boot-key HEX"));
        }
        return confirm(&goes, start, Yes { yes: false });
    };
    if expected == found {
        return Ok(());
    }
    Err(Failure::new(Exit::Precondition, NOT_OPENED)
        .because(format!("the boot key that answers is {found}, and nothing was sent"))
        .mend(
            "take the last boot_key of the broker's log; if it is that one, another broker answers in its place",
        ))
}

async fn unsealed(door: &Door, broker: String, slot: Option<String>) -> Result<Report, Failure> {
    let serving = door.serves().await;
    if !serving {
        return Err(
            Failure::new(Exit::Partly, "the broker was opened, and does not serve")
                .mend("the broker's log says why"),
        );
    }
    let data = UnsealedJson {
        broker,
        slot,
        serving,
        ceremony: None,
    };
    let text = match &data.slot {
        Some(slot) => format!("{} is open, by the slot {slot}, and serves", data.broker),
        None => format!("{} was open, and serves", data.broker),
    };
    Report::new(&data, vec![data.broker.clone()], Human::Text(text))
}

/// What somebody has.
enum Held {
    KeyFile(KeyFile),
    Passphrase(Zeroizing<Vec<u8>>),
}

impl Held {
    fn of(args: &Unseal, sealed: &SealedBroker) -> Result<Self, Failure> {
        if let Some(file) = &args.key_file {
            return KeyFile::read(file, NOT_OPENED).map(Self::KeyFile);
        }
        if let Some(file) = &args.passphrase_file {
            return passphrase_of(file, NOT_OPENED).map(Self::Passphrase);
        }
        if sealed
            .slots
            .iter()
            .any(|slot| slot.is(SlotKind::Passphrase))
        {
            return ask_passphrase(false).map(Self::Passphrase);
        }
        Err(Failure::usage(NOT_OPENED)
            .because("nothing is given that opens a slot")
            .mend(format!(
                "name a key file or a share: --key-file FILE, --share FILE; it has these slots: {}",
                named(&sealed.slots)
            )))
    }

    fn name(&self) -> &'static str {
        match self {
            Self::KeyFile(_) => "the key file",
            Self::Passphrase(_) => "the passphrase",
        }
    }

    /// The slots that it may open.
    fn fits<'s>(
        &self,
        args: &Unseal,
        sealed: &'s SealedBroker,
    ) -> Result<Vec<&'s SealedSlot>, Failure> {
        let kind = match self {
            Self::KeyFile(_) => SlotKind::KeyFile,
            Self::Passphrase(_) => SlotKind::Passphrase,
        };
        let found = named_so(args.slot.as_ref(), sealed)?;
        let fits: Vec<_> = found.into_iter().filter(|slot| slot.is(kind)).collect();
        if fits.is_empty() {
            return Err(Failure::new(Exit::Precondition, NOT_OPENED)
                .because(format!("no slot there is opened by {}", self.name()))
                .mend(format!("it has these: {}", named(&sealed.slots))));
        }
        Ok(fits)
    }

    fn secret(&self, slot: &SealedSlot) -> Result<Secret, Failure> {
        let failed = |error: &(dyn std::error::Error + 'static)| {
            Failure::new(Exit::Failed, NOT_OPENED).caused_by(error)
        };
        match self {
            Self::KeyFile(file) => {
                let mut secret = Box::new(Zeroizing::new([0; KEY_BYTES]));
                secret.copy_from_slice(file.expose());
                Ok(secret)
            }
            Self::Passphrase(passphrase) => {
                let parameters = slot.passphrase.as_ref().ok_or_else(|| {
                    Failure::new(Exit::Failed, NOT_OPENED)
                        .because("the broker did not say how the passphrase becomes a secret")
                })?;
                derived(parameters, passphrase).map_err(|error| failed(&error))
            }
        }
    }
}

/// The slot of that name or id; all of them where none is named.
fn named_so<'s>(
    wanted: Option<&SlotName>,
    sealed: &'s SealedBroker,
) -> Result<Vec<&'s SealedSlot>, Failure> {
    let is_so = |slot: &&SealedSlot| {
        let wanted = wanted.map(|slot| slot.as_str());
        wanted.is_none_or(|wanted| slot.name == wanted || slot.slot.to_string() == wanted)
    };
    let found: Vec<_> = sealed.slots.iter().filter(is_so).collect();
    if let (Some(wanted), true) = (wanted, found.is_empty()) {
        let missing = Failure::new(Exit::Precondition, NOT_OPENED).because("there is no such slot");
        let names = sealed.slots.iter().map(|slot| slot.name.as_str());
        return Err(match nearest(wanted.as_str(), names) {
            Some(near) => missing.mend(format!("did you mean {near}?")),
            None => missing.mend(format!("it has these: {}", named(&sealed.slots))),
        });
    }
    Ok(found)
}

impl SlotJson {
    fn of(slot: &SealedSlot) -> Self {
        Self {
            name: slot.name.clone(),
            slot: slot.slot.to_string(),
            kind: slot.kind.clone(),
            ceremony: slot.ceremony.as_ref().map(CeremonyJson::of),
        }
    }
}

fn named(slots: &[SealedSlot]) -> String {
    let named = slots
        .iter()
        .map(|slot| format!("{} ({})", slot.name, slot.kind));
    named.collect::<Vec<_>>().join(", ")
}

fn shown(sealed: &SealedBroker) -> String {
    hex(&fingerprint(&sealed.boot_key))
}
