//! Full disks, which are small ones here: a tmpfs of some MiB.

use std::{fs, io::Write, path::Path, process::Output};

use attache_proto::attache::v1 as pb;
use attache_tests::{
    Bed, Scene,
    bed::{AUDIENCE, NODE},
    pod::Pod,
    process::{PATIENCE, until},
    scene::PASSWORD,
    wire,
};
use pb::delivery_client::DeliveryClient;
use rustix::mount::{MountFlags, mount, mount_remount};
use tonic::Code;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::{broker, said};

/// Deliveries at one time.
const IN_FLIGHT: usize = 32;
/// More than fill a segment of 8 MiB, whatever a leaf takes.
const DELIVERIES_MAX: usize = 20_000;

fn small(folder: &Path, mib: u32) {
    fs::create_dir_all(folder).unwrap();
    let size = std::ffi::CString::new(format!("size={mib}m,mode=0700")).unwrap();
    mount(
        "small",
        folder,
        "tmpfs",
        MountFlags::empty(),
        Some(size.as_c_str()),
    )
    .unwrap();
}

fn grow(folder: &Path, mib: u32) {
    let size = std::ffi::CString::new(format!("size={mib}m")).unwrap();
    mount_remount(folder, MountFlags::empty(), size.as_c_str()).unwrap();
}

/// A pod whose release is a leaf of many names.
fn wide(scene: &Scene) -> Pod {
    let names: Vec<String> = (0..60)
        .map(|i| format!("{}{i}", "field-".repeat(20)))
        .collect();
    let fields: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "value")).collect();
    scene.put("payments/wide", &fields).unwrap();
    scene
        .bed
        .attache_ok(&[
            "grant",
            "add",
            "wide",
            "payments/wide",
            "--to",
            "local/shop/web/app",
        ])
        .unwrap();
    scene.bed.pod("wide", "payments/wide").unwrap()
}

/// Releases a volume, so many at one time, until the log has no room; answers how often it was released.
fn fill(scene: &Scene, pod: &Pod, in_flight: usize) -> usize {
    let token = scene.bed.token(pod).unwrap();
    let _guard = scene.runtime.enter();
    let client = DeliveryClient::new(wire::node(&scene.bed).unwrap());
    let request = wire::deliver_request(pod, &token);
    let mut released = 0;
    while released < DELIVERIES_MAX {
        let mut calls = tokio::task::JoinSet::new();
        for _ in 0..in_flight {
            let (mut client, request) = (client.clone(), request.clone());
            calls.spawn(async move { client.deliver(request).await.map(drop) });
        }
        let answers = scene.runtime.block_on(calls.join_all());
        released += answers.iter().filter(|answer| answer.is_ok()).count();
        if let Some(status) = answers.into_iter().find_map(Result::err) {
            assert_eq!(status.code(), Code::Unavailable, "{status:?}");
            assert!(status.message().contains("no room"), "{status:?}");
            return released;
        }
    }
    panic!("{released} releases did not fill the log");
}

/// Puts until not even the intent of one, the smallest record, has room.
fn fill_up(scene: &Scene) {
    let full = (0..100).map(|_| scene.put("payments/filler", &[("f", "x")]));
    let refusals = full.filter_map(Result::err).take(2);
    let said: Vec<String> = refusals.map(|error| error.to_string()).collect();
    assert!(
        said.len() == 2 && said.iter().all(|words| words.contains("no room")),
        "{said:?}"
    );
}

/// What the broker says of itself.
fn health(scene: &Scene) -> ServingStatus {
    let _guard = scene.runtime.enter();
    let mut client = HealthClient::new(wire::operator(&scene.bed).unwrap());
    let request = HealthCheckRequest {
        service: String::new(),
    };
    let answer = scene.runtime.block_on(client.check(request)).unwrap();
    answer.into_inner().status()
}

/// A scene whose audit log has room for one segment and for a part of the next, on a disk that can grow.
fn on_a_small_audit_disk(bed: Bed) -> Scene {
    small(&bed.audit_dir(), 12);
    Scene::on(bed).unwrap()
}

/// D4: nothing is released or changed without a durable record, and all of it is again once there is room.
#[test]
fn a_full_audit_disk_stops_releases_and_changes_until_there_is_room() {
    let scene = on_a_small_audit_disk(Bed::new().unwrap());
    let disk = scene.bed.audit_dir();
    let before = Pod::new("shop", "web-0", "web", NODE, "payments/db");
    scene.publish(&before).unwrap();
    let wide = fill(&scene, &wide(&scene), IN_FLIGHT);
    // What is left has room for smaller records.
    let small = fill(&scene, &scene.bed.pod("small", "payments/db").unwrap(), 1);
    fill_up(&scene);
    println!("{wide} large releases and {small} small ones filled the log");

    let refused = Pod::new("shop", "web-1", "web", NODE, "payments/db");
    let token = scene.bed.token(&refused).unwrap();
    let status = scene.refused(&refused, AUDIENCE, &token).unwrap();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    let put = scene
        .put("payments/db", &[("password", "lost")])
        .unwrap_err()
        .to_string();
    assert!(put.contains("no room"), "{put}");
    assert_eq!(health(&scene), ServingStatus::NotServing);
    let ready = broker(&["health"], &scene.bed.broker_config());
    assert_eq!(ready.status.code(), Some(8), "{}", said(&ready));
    // Nobody mends a full disk by starting the broker again.
    let alive = broker(&["health", "--live"], &scene.bed.broker_config());
    assert!(alive.status.success(), "{}", said(&alive));
    // What needs no record goes on.
    assert_eq!(scene.read(&before, "db/password").unwrap(), PASSWORD);
    scene
        .bed
        .attache_ok(&["secret", "show", "payments/db"])
        .unwrap();
    assert!(!scene.logs().contains("panicked"), "{}", scene.logs());

    grow(&disk, 64);
    scene
        .publish(&refused)
        .unwrap_or_else(|status| panic!("there is room again: {status:?}"));
    assert_eq!(
        scene.read(&refused, "db/password").unwrap(),
        PASSWORD,
        "a refused put has changed nothing"
    );
    scene.put("payments/db", &[("password", "kept")]).unwrap();
    assert_eq!(health(&scene), ServingStatus::Serving);
    let verified = scene.bed.attache_ok(&["audit", "verify"]).unwrap();
    println!("{verified}");
}

/// Another key begins another segment: where that finds no room, the key before goes on, and so does all else.
#[test]
fn an_audit_disk_without_room_for_another_segment_keeps_the_key_that_signs() {
    let mut scene = on_a_small_audit_disk(Bed::new().unwrap());
    let disk = scene.bed.audit_dir();
    scene.bed.pin_addresses().unwrap();
    let before = scene.bed.audit_vkey().unwrap();
    let refused = scene.bed.attache(&["key", "rotate", "--audit"]).unwrap();
    assert!(!refused.status.success());
    assert!(said(&refused).contains("no room"), "{}", said(&refused));
    assert_eq!(scene.bed.audit_vkey().unwrap(), before);
    scene.put("payments/db", &[("password", "kept")]).unwrap();
    assert_eq!(health(&scene), ServingStatus::Serving);
    scene.bed.restart_broker().unwrap();
    scene.bed.attache_ok(&["audit", "verify"]).unwrap();

    grow(&disk, 64);
    scene.bed.attache_ok(&["key", "rotate", "--audit"]).unwrap();
    assert_ne!(scene.bed.audit_vkey().unwrap(), before);
    for vkey in [before, scene.bed.audit_vkey().unwrap()] {
        let verify = ["audit", "verify", "--vkey", &vkey];
        scene.bed.attache_ok(&verify).unwrap();
    }
}

/// A scene whose audit log has no room for the smallest record, on a disk that can grow.
fn full_audit_disk(bed: Bed) -> Scene {
    let scene = on_a_small_audit_disk(bed);
    scene.bed.pin_addresses().unwrap();
    fill(&scene, &wide(&scene), IN_FLIGHT);
    fill(&scene, &scene.bed.pod("small", "payments/db").unwrap(), 1);
    fill_up(&scene);
    scene
}

fn seal_and_status(bed: &Bed) -> (Output, serde_json::Value) {
    let (_, enroll) = bed.broker_addresses().unwrap();
    let enroll = enroll.to_string();
    let seal = ["broker", "seal", "--yes", "--reason", "memory was read"];
    let sealed = bed
        .attache(&[&seal[..], &["--output", "json"]].concat())
        .unwrap();
    let asked = ["broker", "status", "--enroll", &enroll, "--output", "json"];
    let status = until(PATIENCE, "sealed", || {
        let told = bed.attache(&asked).ok()?;
        (told.status.code() == Some(8)).then_some(told.stdout)
    });
    (sealed, serde_json::from_slice(&status.unwrap()).unwrap())
}

/// Whoever has to seal cannot wait for a disk: it is sealed, and on record once it is open.
#[test]
fn a_full_audit_disk_keeps_nobody_from_sealing() {
    let mut scene = full_audit_disk(Bed::new().unwrap());
    let disk = scene.bed.audit_dir();
    let (sealed, status) = seal_and_status(&scene.bed);
    assert_eq!(sealed.status.code(), Some(6), "{}", said(&sealed));
    let answer: serde_json::Value = serde_json::from_slice(&sealed.stdout).unwrap();
    let why = answer["not_on_record"].as_str().unwrap();
    assert!(why.contains("no room"), "{answer}");
    assert_eq!(answer["not_kept"], serde_json::Value::Null);
    assert_eq!(status["by_operator"], true);
    scene.bed.restart_broker().unwrap();

    // It cannot serve without a record of that; sealed it stays, and says why in its log.
    grow(&disk, 64);
    let opened = broker(&["unseal"], &scene.bed.broker_config());
    assert!(opened.status.success(), "{}", said(&opened));
    until(PATIENCE, "open", || scene.bed.attache_ok(&["status"]).ok()).unwrap();
    let leaves = scene
        .bed
        .attache_ok(&["audit", "tail", "-n", "50", "--output", "json"])
        .unwrap();
    let seals = leaves.lines().filter(|it| it.contains("operator-seal"));
    let seals: Vec<_> = seals.collect();
    assert_eq!(seals.len(), 1, "{leaves}");
    assert!(seals.iter().all(|it| it.contains("memory was read")));
    scene.bed.attache_ok(&["audit", "verify"]).unwrap();
    scene.bed.check_store().unwrap();
    assert!(!scene.logs().contains("panicked"), "{}", scene.logs());
}

/// The note of a seal takes no room: its spare is there since the broker was open.
#[test]
fn a_full_store_disk_keeps_nobody_from_sealing_and_the_seal_outlives_the_process() {
    let bed = Bed::new().unwrap();
    let disk = bed.store_dir();
    small(&disk, 16);
    let mut scene = Scene::on(bed).unwrap();
    scene.bed.pin_addresses().unwrap();
    scene.bed.attache_ok(&["status"]).unwrap();
    let (_, enroll) = scene.bed.broker_addresses().unwrap();
    let enroll = enroll.to_string();
    let filler = disk.join("filler");
    let mut file = fs::File::create(&filler).unwrap();
    let block = [1; 4096];
    while file.write_all(&block).is_ok() {}
    drop(file);
    assert!(fs::write(disk.join("more"), block).is_err(), "it is full");

    let seal = ["broker", "seal", "--yes", "--output", "json"];
    let sealed = scene.bed.attache(&seal).unwrap();
    println!("{}", said(&sealed));
    let note = disk.join("sealed-by-operator");
    until(PATIENCE, "the note", || note.exists().then_some(())).unwrap();
    assert!(!disk.join("sealed-by-operator.spare").exists());
    // A store that cannot be written ends the process, as always; here or not, the next one is sealed.
    scene.bed.broker.take().unwrap().kill().unwrap();
    let _ = fs::remove_file(disk.join("more"));
    fs::remove_file(&filler).unwrap();
    scene.bed.start_broker().unwrap();
    let asked = ["broker", "status", "--enroll", &enroll, "--output", "json"];
    let status = scene.bed.attache(&asked).unwrap();
    assert_eq!(status.status.code(), Some(8), "{}", said(&status));
    let status: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap();
    let by = status["sealed_by"].as_str().unwrap();
    assert!(by.contains("/operator/"), "{status}");
    let opened = broker(&["unseal"], &scene.bed.broker_config());
    assert!(opened.status.success(), "{}", said(&opened));
    until(PATIENCE, "open", || scene.bed.attache_ok(&["status"]).ok()).unwrap();
    assert!(!note.exists() && disk.join("sealed-by-operator.spare").exists());
    scene.bed.check_store().unwrap();
}

/// A full disk under a start: it is refused, says why, and takes nothing with it.
#[test]
fn a_full_audit_disk_makes_no_half_of_a_store() {
    let bed = Bed::new().unwrap();
    small(&bed.audit_dir(), 4);
    let refused = broker(&["init"], &bed.broker_config());
    assert!(
        !refused.status.success() && said(&refused).contains("audit"),
        "{}",
        said(&refused)
    );
    assert!(!said(&refused).contains("panicked"));
    grow(&bed.audit_dir(), 64);
    bed.init_broker()
        .unwrap_or_else(|error| panic!("something is left in the way: {error:#}"));
}

/// A write that fails is fatal by design: the broker ends, and what was acknowledged is there at the next start.
#[test]
fn a_full_store_disk_ends_the_broker_and_loses_nothing() {
    let bed = Bed::new().unwrap();
    let disk = bed.store_dir();
    small(&disk, 8);
    let mut scene = Scene::on(bed).unwrap();
    scene.bed.pin_addresses().unwrap();
    let large = "x".repeat(900 * 1024);
    let acknowledged = (1..)
        .map(|version| (version, scene.put("payments/large", &[("value", &large)])))
        .find_map(|(version, put)| put.is_err().then_some(version - 1))
        .unwrap();
    let mut broker = scene.bed.broker.take().unwrap();
    let ended = broker
        .wait_for_end()
        .unwrap_or_else(|error| panic!("a store that failed serves on: {error:#}"));
    assert!(!ended.success(), "{ended}");
    let log = scene.logs();
    assert!(
        log.contains("the store failed") && !log.contains("panicked"),
        "{log}"
    );
    println!("{acknowledged} puts were acknowledged in {PATIENCE:?} at most");

    grow(&disk, 64);
    scene.bed.start_broker().unwrap();
    let shown = scene
        .bed
        .attache_ok(&["secret", "show", "payments/large", "--output", "json"])
        .unwrap();
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    let latest = shown
        .get("latest_version")
        .and_then(serde_json::Value::as_u64);
    assert!(
        latest >= Some(acknowledged),
        "{latest:?}, and {acknowledged} were acknowledged"
    );
    let pod = Pod::new("shop", "web-0", "web", NODE, "payments/db");
    scene.publish(&pod).unwrap();
    assert_eq!(scene.read(&pod, "db/password").unwrap(), PASSWORD);
    scene.put("payments/large", &[("value", &large)]).unwrap();
}
