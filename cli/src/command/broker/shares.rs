//! A share for a sealed broker: one of several that people give it from their own machines, one after the other.

use std::path::Path;

use attache_envelope::name::SlotName;
use attache_envelope::shares::SHARE_BYTES;
use serde::Serialize;
use zeroize::Zeroizing;

use super::{NOT_OPENED, UnsealedJson, named, named_so, unsealed};
use crate::command::time;
use crate::failure::{Exit, Failure};
use crate::output::{Console, Human, Report};
use crate::share::{SharesOf, read};
use crate::unseal::{Ceremony, Door, Given, Seal, SealedBroker, SealedSlot};

#[derive(Debug, Serialize)]
pub(super) struct CeremonyJson {
    /// How many shares open the slot.
    needed: u8,
    /// How many there are.
    of: u8,
    /// The numbers of those that were given.
    given: Vec<u8>,
    /// When they are forgotten.
    ends: Option<String>,
    /// When the last ceremony ended that had too few.
    lapsed: Option<String>,
}

impl CeremonyJson {
    pub(super) fn of(ceremony: &Ceremony) -> Self {
        Self {
            needed: ceremony.set.threshold(),
            of: ceremony.set.count(),
            given: ceremony.given.clone(),
            ends: time(ceremony.ends),
            lapsed: time(ceremony.lapsed),
        }
    }

    /// `1 of the 2 that open it is given (number 3), until TIME`
    fn told(&self) -> String {
        let needed = self.needed;
        let numbers: Vec<_> = self.given.iter().map(u8::to_string).collect();
        let numbers = numbers.join(", ");
        let until = self.ends.as_deref().unwrap_or("the broker says so");
        match (self.given.len(), &self.lapsed) {
            (0, None) => format!("none of the {needed} that open it is given"),
            (0, Some(at)) => format!(
                "none of the {needed} that open it is given: those given before were too few by {at}, and are forgotten"
            ),
            (1, _) => {
                format!("1 of the {needed} that open it is given (number {numbers}), until {until}")
            }
            (given, _) => {
                format!(
                    "{given} of the {needed} that open it are given (numbers {numbers}), until {until}"
                )
            }
        }
    }
}

/// What `status` says of a slot that shares open.
pub(super) fn line(slot: &SealedSlot) -> Option<(&'static str, String)> {
    let ceremony = CeremonyJson::of(slot.ceremony.as_ref()?);
    Some(("shares", format!("{}: {}", slot.name, ceremony.told())))
}

/// Gives a share, once it is seen to be one of a slot of this store: no other one leaves this machine.
pub(super) async fn give(
    door: &Door,
    broker: String,
    seal: &Seal,
    sealed: &SealedBroker,
    (path, wanted): (&Path, Option<&SlotName>),
    console: &Console,
) -> Result<Report, Failure> {
    let refused = |why: String| {
        Failure::new(Exit::Precondition, NOT_OPENED).because(format!("{why}; nothing was sent"))
    };
    let found = named_so(wanted, sealed)?;
    let file = read(path, NOT_OPENED)?;
    if file.store != seal.store {
        let (of, store) = (file.store, seal.store);
        return Err(refused(format!(
            "the share is of another store: {of}, and the broker's is {store}"
        )));
    }
    let slot = found.into_iter().find(|slot| slot.slot == file.slot);
    let there = slot.and_then(|slot| Some((slot, slot.ceremony.as_ref()?)));
    let Some((slot, ceremony)) = there else {
        let failure = refused(format!("the share is of another slot: {}", file.slot));
        return Err(failure.mend(format!("it has these: {}", named(&sealed.slots))));
    };
    let of = SharesOf {
        store: seal.store,
        slot: slot.slot,
        set: &ceremony.set,
    };
    of.check(&file, &format!("{NOT_OPENED}, and nothing was sent"))?;
    let mut share = Zeroizing::new([0; SHARE_BYTES]);
    file.share.write(&mut share);
    let of = (seal, sealed, slot);
    match super::give(door, of, share.as_slice(), console).await? {
        Given::Opened => unsealed(door, broker, Some(slot.name.clone())).await,
        Given::IsAnothers => Err(Failure::new(Exit::Precondition, NOT_OPENED)
            .because(format!(
                "the shares do not open the slot {}, although it knows them",
                slot.name
            ))
            .mend("open the broker by another slot, and make that one anew")),
        Given::Taken(ceremony) => taken(broker, slot, file.share.index(), &ceremony),
    }
}

fn taken(
    broker: String,
    slot: &SealedSlot,
    number: u8,
    ceremony: &Ceremony,
) -> Result<Report, Failure> {
    let ceremony = CeremonyJson::of(ceremony);
    let anew = match &ceremony.lapsed {
        Some(at) if ceremony.given == [number] => {
            format!(
                "; those given before were too few by {at} and are forgotten: this one begins anew"
            )
        }
        Some(_) | None => String::new(),
    };
    let text = format!(
        "share {number} of slot {} is taken, and {broker} is still sealed: {}{anew}",
        slot.name,
        ceremony.told()
    );
    let data = UnsealedJson {
        broker,
        slot: None,
        serving: false,
        ceremony: Some(ceremony),
    };
    Report::new(&data, vec![data.broker.clone()], Human::Text(text))
}
