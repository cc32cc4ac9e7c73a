//! The life of a volume: publish, republish, refresh, unpublish.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::time::Instant;

use tonic::{Code, Status};

use crate::bed::{Bed, TOKEN, Volume};
use crate::world::Say;

const USERNAME: &str = "canary-1a2b-username";
const PASSWORD: &str = "canary-3c4d-password";

#[test]
fn a_published_volume_holds_its_files_and_unpublish_leaves_nothing() {
    let bed = Bed::start();
    let volume = Volume::new("web-0");
    bed.broker.world.lock().unwrap().missing = vec!["payments/api".into()];
    bed.publish(&volume).unwrap();
    assert_eq!(bed.read(&volume, "db/username"), USERNAME);
    assert_eq!(bed.read(&volume, "db/password"), PASSWORD);
    let path = bed.kubelet.path(&volume);
    let file = fs::metadata(path.join("db/password")).unwrap();
    assert_eq!(
        (file.uid(), file.gid(), file.permissions().mode() & 0o7777),
        (1000, 1000, 0o400)
    );
    let told: serde_json::Value =
        serde_json::from_str(&bed.read(&volume, ".attache.json")).unwrap();
    assert_eq!(told["files"][0]["path"], "db/password");
    assert_eq!(told["files"][0]["ref"], "payments/db@2#password");
    assert_eq!(told["missing"][0], "payments/api");
    assert!(!told.to_string().contains("canary"), "{told}");
    assert_eq!(bed.mounts().len(), 1);
    for _ in 0..2 {
        bed.unpublish(&volume).unwrap();
        assert!(bed.mounts().is_empty());
    }
    assert!(!path.exists());
    bed.unpublish(&Volume::new("never")).unwrap();
}

#[test]
fn a_republish_is_answered_from_the_record_while_the_broker_says_nothing() {
    let bed = Bed::start();
    let volume = Volume::new("web-0");
    bed.publish(&volume).unwrap();
    let before = (bed.mounts(), bed.read(&volume, ".attache.json"));
    bed.broker.say(Say::Wait);
    for _ in 0..10 {
        bed.publish(&volume).unwrap();
    }
    assert_eq!((bed.mounts(), bed.read(&volume, ".attache.json")), before);
    // One refresh at a time, however many publishes: the one that waits, and the newest request after it.
    let mut request = bed.kubelet.publish_request(&volume);
    for tokens in request.secrets.values_mut() {
        *tokens = tokens.replace(TOKEN, "newest");
    }
    bed.send(request).unwrap();
    bed.until("waiting", |bed| {
        bed.broker.world.lock().unwrap().tokens.len() == 2
    });
    bed.broker.gate.add_permits(100);
    bed.until("taken up", |bed| {
        bed.broker.world.lock().unwrap().tokens.len() >= 3
    });
    bed.until("unchanged", |bed| {
        bed.broker.world.lock().unwrap().unchanged == 2
    });
    let world = bed.broker.world.lock().unwrap();
    assert_eq!(world.tokens, [TOKEN, TOKEN, "newest"]);
    assert_eq!(world.releases, 1, "nothing was released again");
}

#[test]
fn a_change_comes_with_a_republish_and_is_swapped_as_one() {
    let bed = Bed::start();
    let volume = Volume::new("web-0");
    bed.publish(&volume).unwrap();
    let path = bed.kubelet.path(&volume);
    let old = fs::read_link(path.join("..data")).unwrap();
    bed.broker.put("password", b"second");
    bed.publish(&volume).unwrap();
    bed.until("swapped", |bed| {
        bed.read(&volume, "db/password") == "second"
    });
    assert_eq!(bed.read(&volume, "db/username"), USERNAME);
    bed.until("the old one is gone", |_| !path.join(&old).exists());
    assert_eq!(bed.mounts().len(), 1);
}

#[test]
fn a_refusal_passes_on_in_the_brokers_words_and_leaves_nothing() {
    let bed = Bed::start();
    let line =
        "attache: denied (decision 7f3a9c12): no grant lets local/shop/web/app read payments/db";
    let codes = [
        (Status::permission_denied(line), Code::PermissionDenied),
        (Status::unauthenticated(line), Code::Unauthenticated),
        (Status::invalid_argument(line), Code::InvalidArgument),
        (Status::unavailable(line), Code::Unavailable),
        (Status::resource_exhausted(line), Code::ResourceExhausted),
        (Status::internal(line), Code::Internal),
        (Status::not_found(line), Code::Internal),
    ];
    for (status, code) in codes {
        bed.broker.say(Say::Refuse(status));
        for _ in 0..2 {
            let refused = bed.publish(&Volume::new("web-0")).unwrap_err();
            assert_eq!((refused.code(), refused.message()), (code, line));
            assert!(bed.mounts().is_empty());
        }
    }
    bed.broker
        .say(Say::Refuse(Status::permission_denied(format!(
            "two\nlines\0 {}",
            "x".repeat(4000)
        ))));
    let refused = bed.publish(&Volume::new("web-0")).unwrap_err();
    assert!(refused.message().starts_with("two lines  x") && refused.message().len() <= 1024);
    bed.broker.say(Say::Truth);
    bed.publish(&Volume::new("web-0")).unwrap();
}

/// A volume that is mounted and cannot be filled: there are too many folders for its inodes.
#[test]
fn a_publish_that_fails_after_the_mount_unmounts_again() {
    let mut bed = Bed::idle();
    let more = "[limits]\nvolume_inodes = 1024\n[broker]";
    let config = bed.dir.join("node-plugin.toml");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.replace("[broker]", more)).unwrap();
    bed.start_plugin();
    bed.broker.world.lock().unwrap().folder = |field| format!("{field}/b/c/d/e/f/g");
    for field in 0..140 {
        bed.broker.put(&format!("f{field}"), b"x");
    }
    let volume = Volume::new("web-0");
    for _ in 0..2 {
        let refused = bed.publish(&volume).unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
        assert!(bed.mounts().is_empty());
    }
    bed.broker.world.lock().unwrap().fields.clear();
    bed.broker.put("password", PASSWORD.as_bytes());
    bed.publish(&volume).unwrap();
}

#[test]
fn what_is_mounted_stays_whatever_a_refresh_meets() {
    let bed = Bed::start();
    let volume = Volume::new("web-0");
    bed.publish(&volume).unwrap();
    let before = (bed.mounts(), bed.read(&volume, ".attache.json"));
    let condition = |bed: &Bed| bed.stats(&volume).unwrap().volume_condition.unwrap();
    assert!(!condition(&bed).abnormal);
    bed.broker.put("password", b"never");
    bed.broker.say(Say::Refuse(Status::permission_denied(
        "attache: denied (decision 1): no",
    )));
    bed.publish(&volume).unwrap();
    bed.until("reported", |bed| condition(bed).abnormal);
    assert_eq!(condition(&bed).message, "attache: denied (decision 1): no");
    bed.broker
        .say(Say::Bend(|released| released.sealed_keys[0] ^= 1));
    bed.publish(&volume).unwrap();
    bed.until("reported", |bed| {
        condition(bed).message.contains("do not open")
    });
    // A broker whose store went back must not take the volume along.
    bed.broker.world.lock().unwrap().seq = 1;
    bed.broker.say(Say::Truth);
    bed.publish(&volume).unwrap();
    bed.until("reported", |bed| condition(bed).message.contains("older"));
    assert_eq!((bed.mounts(), bed.read(&volume, ".attache.json")), before);
    assert_eq!(bed.read(&volume, "db/password"), PASSWORD);
    bed.broker.put("password", b"at last");
    bed.broker.world.lock().unwrap().seq = 1000;
    bed.publish(&volume).unwrap();
    bed.until("well again", |bed| {
        bed.read(&volume, "db/password") == "at last" && !condition(bed).abnormal
    });
}

#[test]
fn a_lost_broker_stops_releases_and_no_mount() {
    let mut bed = Bed::start();
    let (first, second) = (Volume::new("web-0"), Volume::new("web-1"));
    bed.publish(&first).unwrap();
    bed.broker.down();
    bed.publish(&first).unwrap();
    let refused: Vec<Status> = (0..3).map(|_| bed.publish(&second).unwrap_err()).collect();
    for status in &refused {
        assert_eq!(status.code(), Code::Unavailable);
        assert_eq!(status.message(), refused[0].message());
        assert!(
            !status.message().contains(|c: char| c.is_ascii_digit()),
            "{status:?}"
        );
    }
    assert_eq!(bed.read(&first, "db/password"), PASSWORD);
    bed.unpublish(&first).unwrap();
    assert!(bed.mounts().is_empty());
    bed.broker.up();
    bed.until("back", |bed| bed.publish(&second).is_ok());
}

#[test]
fn one_thing_at_a_time_happens_to_a_volume() {
    let bed = Bed::start();
    let volume = Volume::new("web-0");
    bed.broker.say(Say::Wait);
    bed.kubelet.prepare(&volume);
    let request = bed.kubelet.publish_request(&volume);
    let mut node = bed.kubelet.node.clone();
    let first = bed.runtime.spawn({
        let request = request.clone();
        async move { node.node_publish_volume(request).await }
    });
    bed.until("asked", |bed| {
        !bed.broker.world.lock().unwrap().tokens.is_empty()
    });
    assert_eq!(bed.send(request).unwrap_err().code(), Code::Aborted);
    assert_eq!(bed.unpublish(&volume).unwrap_err().code(), Code::Aborted);
    bed.publish(&Volume::new("web-1"))
        .expect_err("waits, until the deadline");
    bed.broker.gate.add_permits(1);
    bed.runtime.block_on(first).unwrap().unwrap_err();
}

#[test]
fn a_publish_whose_caller_went_away_ends_whole() {
    let bed = Bed::start();
    let volume = Volume::new("web-0");
    bed.broker.say(Say::Wait);
    bed.kubelet.prepare(&volume);
    let request = bed.kubelet.publish_request(&volume);
    let mut node = bed.kubelet.node.clone();
    let call = bed
        .runtime
        .spawn(async move { node.node_publish_volume(request).await });
    bed.until("asked", |bed| {
        !bed.broker.world.lock().unwrap().tokens.is_empty()
    });
    call.abort();
    bed.broker.gate.add_permits(1);
    bed.until("there", |bed| bed.read(&volume, "db/password") == PASSWORD);
    bed.broker.say(Say::Truth);
    bed.until("free", |bed| bed.publish(&volume).is_ok());
    bed.unpublish(&volume).unwrap();
}

#[test]
fn an_unpublish_does_not_wait_for_the_broker() {
    let bed = Bed::start();
    let volume = Volume::new("web-0");
    bed.publish(&volume).unwrap();
    bed.broker.say(Say::Wait);
    bed.publish(&volume).unwrap();
    bed.until("refreshing", |bed| {
        bed.broker.world.lock().unwrap().tokens.len() == 2
    });
    let begun = Instant::now();
    bed.unpublish(&volume).unwrap();
    assert!(
        begun.elapsed().as_secs() < 5,
        "the refresh was told to stop"
    );
    assert!(bed.mounts().is_empty());
    bed.broker.gate.add_permits(10);
    bed.broker.say(Say::Truth);
    bed.publish(&volume).unwrap();
    assert_eq!(bed.read(&volume, "db/password"), PASSWORD);
}

#[test]
fn publish_and_unpublish_may_race() {
    let bed = Bed::start();
    let volume = Volume::new("web-0");
    bed.kubelet.prepare(&volume);
    bed.runtime.block_on(async {
        let mut calls = tokio::task::JoinSet::new();
        for i in 0..60 {
            let mut node = bed.kubelet.node.clone();
            let (publish, unpublish) = (
                bed.kubelet.publish_request(&volume),
                bed.kubelet.unpublish_request(&volume),
            );
            calls.spawn(async move {
                if i % 2 == 0 {
                    node.node_publish_volume(publish).await.map(drop)
                } else {
                    node.node_unpublish_volume(unpublish).await.map(drop)
                }
            });
        }
        while let Some(done) = calls.join_next().await {
            if let Err(status) = done.unwrap() {
                assert_eq!(status.code(), Code::Aborted, "{status:?}");
            }
        }
    });
    match bed.mounts().len() {
        0 => {}
        1 => assert_eq!(bed.read(&volume, "db/password"), PASSWORD),
        more => panic!("{more} mounts"),
    }
    bed.until("free", |bed| bed.unpublish(&volume).is_ok());
    assert!(bed.mounts().is_empty());
}

#[test]
fn no_log_has_a_token_or_a_value() {
    let bed = Bed::start();
    let volume = Volume::new("web-0");
    bed.publish(&volume).unwrap();
    bed.broker.put("password", b"canary-7788-second");
    bed.publish(&volume).unwrap();
    bed.until("swapped", |bed| {
        bed.read(&volume, "db/password") == "canary-7788-second"
    });
    bed.broker.say(Say::Refuse(Status::permission_denied("no")));
    bed.publish(&Volume::new("web-1")).unwrap_err();
    bed.broker
        .say(Say::Bend(|released| released.sealed_keys[0] ^= 1));
    bed.publish(&Volume::new("web-1")).unwrap_err();
    let mut request = bed.kubelet.publish_request(&Volume::new("web-2"));
    request
        .volume_context
        .insert("secret".into(), "canary-99aa-attribute".into());
    bed.send(request).unwrap_err();
    bed.unpublish(&volume).unwrap();
    let log = bed.log();
    assert!(
        log.contains("TRACE") && log.contains("published") && log.contains("shop/web-0"),
        "the control"
    );
    let leaks: Vec<&str> = log.lines().filter(|line| line.contains("canary")).collect();
    assert!(leaks.is_empty(), "{leaks:#?}");
    assert!(!log.contains(&bed.broker.join_token[..60]));
    let mut files = vec![bed.dir.join("state"), bed.dir.join("ipc")];
    while let Some(path) = files.pop() {
        if path.is_dir() {
            files.extend(
                fs::read_dir(path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
        } else if path.is_file() {
            let bytes = fs::read(&path).unwrap();
            assert!(
                !bytes.windows(6).any(|window| window == b"canary"),
                "{}",
                path.display()
            );
        }
    }
}
