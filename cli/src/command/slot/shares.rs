//! Slots that shares open: made and verified where the shares are, so that the broker never sees them together.

use std::path::PathBuf;

use attache_envelope::id::SlotId;
use attache_envelope::key::SlotSecret;
use attache_envelope::shares::ShareSet;
use attache_envelope::slot::{SlotKind, SlotVerb};
use attache_proto::attache::v1 as pb;

use super::verify::{VerifiedJson, verified};
use super::{AddedJson, NOT_MADE, SlotJson, left_behind, new_slot, not_made, sealed_to, send};
use crate::args::slot::{AddShares, Verify};
use crate::command::Shell;
use crate::failure::{Exit, Failure};
use crate::output::{Human, Report};
use crate::session::{Session, mutation};
use crate::share::{NewShares, SharesOf, remove};
use crate::slot_secret::{Purpose, begin, random_secret};
use crate::unseal::Secret;

/// Makes shares here, a file each, and a slot that they open. The files are there, durably, and were read back and put
/// together, before anything is sent.
///
/// # Errors
/// As [`super::list`]; [`Exit::Usage`] for more shares needed than there are; [`Exit::Failed`] when a file is there already
/// or cannot be made.
pub async fn add(args: AddShares, shell: &Shell) -> Result<Report, Failure> {
    let numbers = (args.threshold, args.shares);
    if args.threshold > args.shares {
        return Err(Failure::usage(NOT_MADE)
            .because("--threshold is more than --shares: the slot would never open")
            .mend("say how many of them are to open it, and how many there are"));
    }
    let session = shell.session().await?;
    let dry_run = args.dry_run.dry_run;
    let (kind, begun) = (SlotKind::Shares, begin(&session, NOT_MADE).await?);
    let (slot, name) = new_slot(kind, args.name)?;
    let secret = random_secret().map_err(|error| not_made(&error))?;
    let shares = NewShares::split((begun.store(), slot), SlotSecret::new(&secret), numbers);
    let shares = shares.map_err(|error| not_made(&error))?;
    let of = SharesOf {
        store: begun.store(),
        slot,
        set: shares.set(),
    };
    let files = match dry_run {
        true => Vec::new(),
        false => shares.create(&args.out, &name, NOT_MADE)?,
    };
    // What the files give is what makes the slot: it is proven before there is one.
    let secret = if dry_run {
        secret
    } else {
        drop(secret);
        given_back(of, &files)?
    };
    let (id, mutation) = mutation(dry_run);
    let purpose = Purpose {
        verb: SlotVerb::Add,
        request: id,
        slot,
        kind,
        name: &name,
    };
    let sealed = sealed_to(&begun, &session, &purpose, secret.as_slice(), NOT_MADE)?;
    let request = pb::AddSlotRequest {
        mutation,
        slot: slot.as_bytes().to_vec(),
        name: name.clone(),
        kind: kind.name().to_owned(),
        secret: Some(sealed),
        share_set: shares.set().encode(),
    };
    let added = match send(&session, id, &request, dry_run).await {
        Ok(added) => added,
        Err(failure) if dry_run => return Err(failure),
        Err(failure) => return Err(left_behind(failure, &files)),
    };
    let data = AddedJson {
        share_files: files.iter().map(|it| it.display().to_string()).collect(),
        ..added
    };
    let text = told(&data, &name, numbers);
    Report::new(&data, vec![name], Human::Text(text))
}

fn told(data: &AddedJson, name: &str, (threshold, count): (u8, u8)) -> String {
    let opens = format!("any {threshold} of its {count} shares open the store, fewer say nothing");
    let is_made = data.changed.says("is made", "would be made");
    if data.changed.dry_run {
        return format!("slot {name} {is_made}: {opens}");
    }
    format!(
        "slot {name} {is_made}: {opens}; they are in {}: give each to another person, who keeps it apart from the store and sees \
         that it is right with: attache slot verify {name} --share FILE; then let none of them stay together",
        data.share_files.join(", ")
    )
}

/// The secret as the files have it. Files that do not give it back are taken away: there is no slot yet.
fn given_back(of: SharesOf<'_>, files: &[PathBuf]) -> Result<Secret, Failure> {
    let secret = of
        .read(files, NOT_MADE)
        .and_then(|shares| of.secret(&shares, NOT_MADE));
    let failure = match secret {
        Ok(Some(secret)) => return Ok(secret),
        Ok(None) => Failure::new(Exit::Failed, NOT_MADE).because("there are too few shares"),
        Err(failure) => failure,
    };
    Err(match remove(files) {
        Ok(()) => failure,
        Err(left) => failure.mend(format!("remove {left}: nothing is opened by it")),
    })
}

/// Shows that shares are those of a slot; and, when there are enough of them, that they open it.
pub(super) async fn verify(
    session: &Session,
    (slot, found): (SlotId, pb::SlotView),
    args: &Verify,
    what: &str,
) -> Result<Report, Failure> {
    if args.share.is_empty() {
        return Err(Failure::usage(what)
            .because("it is opened by shares")
            .mend("name one or more of them: --share FILE"));
    }
    let set = ShareSet::decode(&found.share_set)
        .map_err(|error| Failure::new(Exit::Failed, what).caused_by(&error))?;
    let begun = begin(session, what).await?;
    let of = SharesOf {
        store: begun.store(),
        slot,
        set: &set,
    };
    let shares = of.read(&args.share, what)?;
    let mut shares_given: Vec<_> = shares.iter().map(|share| share.index()).collect();
    shares_given.sort_unstable();
    let name = found.name.clone();
    let Some(secret) = of.secret(&shares, what)? else {
        let text = few(&name, &shares_given, &set);
        let data = VerifiedJson {
            slot: SlotJson::from(found),
            shares_given,
            changed: None,
        };
        return Report::new(&data, vec![name], Human::Text(text));
    };
    let dry_run = args.dry_run.dry_run;
    let (id, mutation) = mutation(dry_run);
    let purpose = Purpose {
        verb: SlotVerb::Verify,
        request: id,
        slot,
        kind: SlotKind::Shares,
        name: "",
    };
    let sealed = sealed_to(&begun, session, &purpose, secret.as_slice(), what)?;
    let request = pb::VerifySlotRequest {
        mutation,
        slot: found.slot,
        secret: Some(sealed),
    };
    let data = VerifiedJson {
        shares_given,
        ..verified(session, id, &request, dry_run, what).await?
    };
    let text = format!("slot {name} opens");
    Report::new(&data, vec![name], Human::Text(text))
}

/// `share 2 is right: ...`, `shares 2, 3 are right: ...`.
fn few(name: &str, given: &[u8], set: &ShareSet) -> String {
    let numbers: Vec<_> = given.iter().map(u8::to_string).collect();
    let (noun, verb) = match given {
        [_] => ("share", "is"),
        _ => ("shares", "are"),
    };
    format!(
        "{noun} {} {verb} right: as handed out for slot {name}, which any {} of {} open; with so many here it would be shown that \
         they do",
        numbers.join(", "),
        set.threshold(),
        set.count()
    )
}
