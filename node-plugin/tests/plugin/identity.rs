//! Joining and renewing, in time and late.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use rustix::process::Signal;
use tonic::{Code, Status};

use crate::bed::{AGENT_UID, Bed, Volume};

#[test]
fn a_node_joins_once_and_keeps_its_identity_to_itself() {
    let mut bed = Bed::start();
    bed.plugin.take().unwrap().end(Signal::TERM);
    // The token works once: an agent that asked again would be refused.
    fs::remove_file(bed.dir.join("join-token")).unwrap();
    bed.start_plugin();
    bed.publish(&Volume::new("web-0")).unwrap();
    assert_eq!(bed.broker.world.lock().unwrap().joins, 1);
    let state = bed.dir.join("state");
    let folder = fs::metadata(&state).unwrap();
    assert_eq!((folder.uid(), folder.mode() & 0o7777), (AGENT_UID, 0o700));
    for entry in fs::read_dir(&state).unwrap() {
        let file = entry.unwrap().metadata().unwrap();
        assert_eq!((file.uid(), file.mode() & 0o7777), (AGENT_UID, 0o600));
    }
}

#[test]
fn without_a_usable_token_the_plugin_says_so_and_takes_a_new_one_when_it_comes() {
    let mut bed = Bed::idle();
    let token = bed.dir.join("join-token");
    let kept = bed.dir.join("kept");
    fs::rename(&token, &kept).unwrap();
    bed.spawn_plugin();
    bed.until("told", |bed| bed.log().contains("attache node join-token"));
    assert!(!bed.ready());
    let refused = bed.publish(&Volume::new("web-0")).unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    assert!(refused.message().contains("not joined"), "{refused:?}");
    assert!(bed.mounts().is_empty());
    fs::rename(&kept, &token).unwrap();
    bed.until("ready", Bed::ready);
    bed.publish(&Volume::new("web-0")).unwrap();
}

#[test]
fn a_ca_that_the_token_does_not_name_is_no_broker() {
    let mut bed = Bed::idle();
    let token = bed.dir.join("join-token");
    let text = fs::read_to_string(&token).unwrap();
    // Another pin: the last 43 characters carry it.
    let at = text.len() - 10;
    let other = if &text[at..=at] == "A" { "B" } else { "A" };
    let forged = format!("{}{other}{}", &text[..at], &text[at + 1..]);
    fs::write(&token, forged).unwrap();
    bed.spawn_plugin();
    bed.until("told", |bed| {
        bed.log().contains("not the one that the join token")
    });
    assert_eq!(
        bed.broker.world.lock().unwrap().joins,
        0,
        "the token was not sent"
    );
}

/// Certificates that are due at once: each renewal brings a new key, on a new connection, and the old connection is
/// not used again: a broker takes a replaced key for a copy.
#[test]
fn a_renewed_certificate_is_used_at_once_and_the_old_one_never_again() {
    let mut bed = Bed::idle();
    bed.broker.world.lock().unwrap().validity = Duration::from_secs(20);
    bed.start_plugin();
    let volume = Volume::new("web-0");
    bed.until("renewed thrice", |bed| {
        drop(bed.publish(&volume));
        bed.broker.world.lock().unwrap().renewals.len() >= 3
    });
    let world = bed.broker.world.lock().unwrap();
    assert_eq!(world.joins, 1);
    let keys: BTreeSet<_> = world.renewals.iter().collect();
    assert_eq!(keys.len(), world.renewals.len(), "a new key each time");
    let serials: Vec<&String> = world.delivered_to.iter().collect();
    let distinct: BTreeSet<_> = serials.iter().collect();
    assert!(distinct.len() >= 2, "{serials:?}");
    let runs = 1 + serials.windows(2).filter(|pair| pair[0] != pair[1]).count();
    assert_eq!(
        runs,
        distinct.len(),
        "none comes back once it was replaced: {serials:?}"
    );
}

#[test]
fn a_lost_answer_costs_another_renewal_of_the_same_key() {
    let mut bed = Bed::idle();
    {
        let mut world = bed.broker.world.lock().unwrap();
        world.validity = Duration::from_secs(20);
        world.lose_renewals = 2;
    }
    bed.start_plugin();
    bed.until("renewed", |bed| {
        bed.broker.world.lock().unwrap().renewals.len() >= 4
    });
    let world = bed.broker.world.lock().unwrap();
    assert_eq!(world.joins, 1);
    assert_eq!(world.renewals[0], world.renewals[1]);
    assert_eq!(world.renewals[1], world.renewals[2]);
    assert_ne!(world.renewals[2], world.renewals[3]);
}

/// A bed whose node holds a certificate that has ended, since its broker was away.
fn ended() -> Bed {
    let mut bed = Bed::idle();
    bed.broker.world.lock().unwrap().validity = Duration::from_secs(3);
    bed.start_plugin();
    bed.broker.down();
    bed.until("without an identity", |bed| {
        bed.log().contains("the certificate has ended") && !bed.ready()
    });
    bed.broker.world.lock().unwrap().validity = Duration::from_secs(3600);
    bed
}

#[test]
fn a_certificate_that_ended_while_the_broker_was_away_is_renewed_by_its_key() {
    let mut bed = ended();
    // A reboot in the meantime changes nothing, and a token is not needed.
    bed.plugin.take().unwrap().end(Signal::TERM);
    fs::remove_file(bed.dir.join("join-token")).unwrap();
    bed.broker.up();
    bed.start_plugin();
    bed.publish(&Volume::new("web-0")).unwrap();
    let world = bed.broker.world.lock().unwrap();
    assert_eq!((world.joins, world.late), (1, 1));
}

#[test]
fn only_the_brokers_no_to_a_late_renewal_leads_to_the_evidence() {
    let mut bed = ended();
    let says = |bed: &Bed, status| bed.broker.world.lock().unwrap().refuse_late = Some(status);
    let asked = |bed: &Bed| bed.broker.world.lock().unwrap().late;
    says(&bed, Status::unavailable("the store is not available"));
    bed.broker.up();
    bed.until("asked twice", |bed| asked(bed) >= 2);
    says(&bed, Status::failed_precondition("compare the clocks"));
    bed.until("told", |bed| bed.log().contains("compare the clocks"));
    assert_eq!(bed.broker.world.lock().unwrap().joins, 1);
    says(&bed, Status::unauthenticated("more than seven days ago"));
    bed.until("ready", Bed::ready);
    assert_eq!(bed.broker.world.lock().unwrap().joins, 2);
    assert!(bed.log().contains("more than seven days ago"));
}
