use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::csi::request::Expected;

const NAMES: [&str; 3] = ["a", "b", "c"];

fn target(name: &str) -> Target {
    let path = format!("/k/pods/uid-1/volumes/kubernetes.io~csi/{name}/mount");
    Target::from_path(std::path::Path::new("/k"), &path).unwrap()
}

fn request(name: &str, token: &str) -> PublishRequest {
    use attache_proto::csi::v1 as csi;
    let target = target(name);
    let context = [
        ("container", "app"),
        ("csi.storage.k8s.io/pod.name", "web-0"),
        ("csi.storage.k8s.io/pod.namespace", "shop"),
        ("csi.storage.k8s.io/pod.uid", "uid-1"),
        ("csi.storage.k8s.io/serviceAccount.name", "web"),
        ("csi.storage.k8s.io/ephemeral", "true"),
        (
            crate::csi::token::TOKENS,
            &format!(r#"{{"a":{{"token":"{token}"}}}}"#),
        ),
    ];
    let request = csi::NodePublishVolumeRequest {
        volume_id: target.volume_id().to_string(),
        target_path: target
            .path(std::path::Path::new("/k"))
            .display()
            .to_string(),
        volume_capability: Some(csi::VolumeCapability {
            access_mode: Some(csi::volume_capability::AccessMode { mode: 1 }),
            access_type: Some(csi::volume_capability::AccessType::Mount(Default::default())),
        }),
        volume_context: context
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into(),
        ..Default::default()
    };
    let expected = Expected {
        kubelet_dir: std::path::Path::new("/k"),
        audience: "a",
    };
    PublishRequest::parse(request, expected).unwrap()
}

fn record(seq: u64) -> Record {
    Record {
        held: Some(Generation {
            incarnation: 1,
            seq,
            digest: [0; 32],
        }),
        trouble: None,
    }
}

fn first(table: &Table, name: &str) -> Claim {
    match table.publish(request(name, "t")) {
        Publish::First(claim, _) => claim,
        Publish::Refresh(..) | Publish::Queued | Publish::Busy => panic!("not the first publish"),
    }
}

fn refresh(table: &Table, name: &str, token: &str) -> Refresh {
    match table.publish(request(name, token)) {
        Publish::Refresh(refresh, _) => refresh,
        Publish::First(..) | Publish::Queued | Publish::Busy => panic!("not a refresh"),
    }
}

#[test]
fn a_dropped_claim_leaves_nothing() {
    let table = Table::default();
    drop(first(&table, "a"));
    assert!(table.lock().volumes.is_empty());
    first(&table, "a").published(record(1));
    assert_eq!(table.record(&target("a")), Some(record(1)));
    match table.unpublish(&target("a")) {
        Unpublish::Begin {
            claim,
            refresh: None,
        } => drop(claim),
        Unpublish::Begin { .. } | Unpublish::Busy => panic!("does not begin at once"),
    }
    assert!(table.lock().volumes.is_empty());
}

#[test]
fn the_newest_of_the_waiting_requests_wins() {
    let table = Table::default();
    first(&table, "a").published(record(1));
    let running = refresh(&table, "a", "one");
    for token in ["two", "three"] {
        assert!(matches!(
            table.publish(request("a", token)),
            Publish::Queued
        ));
    }
    let (running, request) = running.next().unwrap();
    assert_eq!(request.token.expose(), "three");
    running.note(record(2));
    assert!(running.next().is_none());
    assert_eq!(table.record(&target("a")), Some(record(2)));
    refresh(&table, "a", "four");
}

#[test]
fn an_unpublish_stops_the_refresh_and_hears_of_its_end() {
    let table = Table::default();
    first(&table, "a").published(record(1));
    let running = refresh(&table, "a", "one");
    assert!(matches!(
        table.publish(request("a", "two")),
        Publish::Queued
    ));
    let Unpublish::Begin {
        claim,
        refresh: Some(ended),
    } = table.unpublish(&target("a"))
    else {
        panic!("begins, and waits");
    };
    assert!(running.stop().is_cancelled() && !ended.is_cancelled());
    assert!(matches!(table.unpublish(&target("a")), Unpublish::Busy));
    running.note(record(9));
    assert!(running.held().is_none());
    assert!(running.next().is_none(), "what waited is gone");
    assert!(ended.is_cancelled());
    drop(claim);
    assert!(table.lock().volumes.is_empty());
}

#[test]
fn a_refresh_that_is_dropped_midway_lets_the_next_begin() {
    let table = Table::default();
    first(&table, "a").published(record(1));
    drop(refresh(&table, "a", "one"));
    let again = refresh(&table, "a", "two");
    again.forget();
    assert!(table.lock().volumes.is_empty());
}

#[test]
fn a_volume_that_is_gone_is_published_from_the_beginning() {
    let table = Table::default();
    first(&table, "a").published(record(1));
    let claim = refresh(&table, "a", "one").remount().unwrap();
    assert_eq!(table.record(&target("a")), None);
    assert!(matches!(table.publish(request("a", "t")), Publish::Busy));
    claim.published(record(2));
    let running = refresh(&table, "a", "two");
    let Unpublish::Begin { claim, .. } = table.unpublish(&target("a")) else {
        panic!("does not begin");
    };
    assert!(running.remount().is_none(), "being unpublished");
    drop(claim);
    assert!(table.lock().volumes.is_empty());
}

#[test]
fn what_is_found_is_taken_over_but_not_from_under_anybody() {
    let table = Table::default();
    first(&table, "a").published(record(1));
    let publishing = first(&table, "b");
    table
        .look()
        .reconcile([(target("b"), record(7)), (target("c"), record(8))]);
    assert_eq!(table.record(&target("a")), None, "not found any more");
    assert_eq!(table.record(&target("b")), None, "being published");
    assert_eq!(table.record(&target("c")), Some(record(8)));
    publishing.published(record(2));
    let running = refresh(&table, "c", "one");
    table.look().reconcile([]);
    assert_eq!(
        table.record(&target("c")),
        Some(record(8)),
        "being refreshed"
    );
    assert_eq!(table.record(&target("b")), None);
    drop(running);
}

/// What was seen of a volume that came or went meanwhile is older than what is known of it.
#[test]
fn a_look_takes_nothing_over_that_something_was_begun_with_meanwhile() {
    let table = Table::default();
    for name in ["a", "b", "d"] {
        first(&table, name).published(record(1));
    }
    let look = table.look();
    let Unpublish::Begin { claim, .. } = table.unpublish(&target("a")) else {
        panic!("nothing is under way");
    };
    drop(claim);
    refresh(&table, "b", "one").note(record(2));
    first(&table, "c").published(record(3));
    look.reconcile(["a", "b", "d"].map(|name| (target(name), record(1))));
    assert_eq!(table.record(&target("a")), None, "it is not there any more");
    assert_eq!(table.record(&target("b")), Some(record(2)));
    assert_eq!(table.record(&target("c")), Some(record(3)));
    assert_eq!(table.record(&target("d")), Some(record(1)));
    assert!(table.lock().begun.is_none());
    drop(table.look());
    assert!(table.lock().begun.is_none(), "a look that came to nothing");
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Publish(usize),
    Unpublish(usize),
    EndFirst(usize, bool),
    EndRefresh(usize),
    EndUnpublish(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = (0..NAMES.len(), any::<bool>(), 0..5).prop_map(|(at, ok, kind)| match kind {
        0 => Step::Publish(at),
        1 => Step::Unpublish(at),
        2 => Step::EndFirst(at, ok),
        3 => Step::EndRefresh(at),
        _ => Step::EndUnpublish(at),
    });
    proptest::collection::vec(step, 0..60)
}

/// What a model without a lock says that a volume is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Model {
    Publishing,
    Published,
    Refreshing { waits: bool },
    Unpublishing,
}

#[derive(Default)]
struct Held {
    first: BTreeMap<usize, Claim>,
    refresh: BTreeMap<usize, Refresh>,
    unpublish: BTreeMap<usize, Claim>,
}

fn publish(table: &Table, model: &mut BTreeMap<usize, Model>, held: &mut Held, at: usize) {
    let got = table.publish(request(NAMES[at], "t"));
    match (model.get(&at).copied(), got) {
        (None, Publish::First(claim, _)) => {
            model.insert(at, Model::Publishing);
            held.first.insert(at, claim);
        }
        (Some(Model::Published), Publish::Refresh(refresh, _)) => {
            model.insert(at, Model::Refreshing { waits: false });
            held.refresh.insert(at, refresh);
        }
        (Some(Model::Refreshing { .. }), Publish::Queued) => {
            model.insert(at, Model::Refreshing { waits: true });
        }
        (Some(Model::Publishing | Model::Unpublishing), Publish::Busy) => {}
        (was, _) => panic!("from {was:?}"),
    }
}

fn unpublish(table: &Table, model: &mut BTreeMap<usize, Model>, held: &mut Held, at: usize) {
    match (model.get(&at).copied(), table.unpublish(&target(NAMES[at]))) {
        (
            None | Some(Model::Published),
            Unpublish::Begin {
                claim,
                refresh: None,
            },
        )
        | (
            Some(Model::Refreshing { .. }),
            Unpublish::Begin {
                claim,
                refresh: Some(_),
            },
        ) => {
            model.insert(at, Model::Unpublishing);
            held.unpublish.insert(at, claim);
        }
        (Some(Model::Publishing | Model::Unpublishing), Unpublish::Busy) => {}
        (was, _) => panic!("from {was:?}"),
    }
}

proptest! {
    /// Any order of beginnings and ends agrees with the model, and a volume that is absent takes no memory.
    #[test]
    fn the_table_agrees_with_a_model(steps in steps()) {
        let table = Table::default();
        let mut model: BTreeMap<usize, Model> = BTreeMap::new();
        let mut held = Held::default();
        for step in steps {
            match step {
                Step::Publish(at) => publish(&table, &mut model, &mut held, at),
                Step::Unpublish(at) => unpublish(&table, &mut model, &mut held, at),
                Step::EndFirst(at, ok) => if let Some(claim) = held.first.remove(&at) {
                    if ok {
                        claim.published(record(1));
                        model.insert(at, Model::Published);
                    } else {
                        drop(claim);
                        model.remove(&at);
                    }
                },
                Step::EndRefresh(at) => if let Some(refresh) = held.refresh.remove(&at) {
                    let next = refresh.next();
                    match model.get(&at) {
                        Some(Model::Refreshing { waits: true }) => {
                            held.refresh.insert(at, next.unwrap().0);
                            model.insert(at, Model::Refreshing { waits: false });
                        }
                        Some(Model::Refreshing { waits: false }) => {
                            prop_assert!(next.is_none());
                            model.insert(at, Model::Published);
                        }
                        _ => prop_assert!(next.is_none()),
                    }
                },
                Step::EndUnpublish(at) => if held.unpublish.remove(&at).is_some() {
                    model.remove(&at);
                },
            }
            for (at, name) in NAMES.iter().enumerate() {
                let known = matches!(model.get(&at), Some(Model::Published | Model::Refreshing { .. }));
                prop_assert_eq!(table.record(&target(name)).is_some(), known);
            }
            prop_assert_eq!(table.lock().volumes.len(), model.len());
        }
    }
}
