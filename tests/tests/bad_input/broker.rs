//! Requests to the broker: every field of `attache.v1`.

use attache_proto::attache::v1 as pb;
use attache_tests::{
    Bed, Scene,
    raw::{Method, Types, call},
    scene::PASSWORD,
    wire,
};
use prost::Message;
use serde_json::Value as Json;
use tonic::transport::Channel;

use crate::{
    kinds::CANARY,
    walk::{Expect, Rows, Walk, judge},
};
use rows::{CONTROLS, EXCEPTIONS, ROWS};

mod good;
mod rows;

/// The store's sequence, and how many changes are on record.
fn state(bed: &Bed) -> (u64, usize) {
    let status: Json =
        serde_json::from_str(&bed.attache_ok(&["status", "--output", "json"]).unwrap()).unwrap();
    let audit = bed
        .attache_ok(&["audit", "tail", "-n", "10000", "--output", "json"])
        .unwrap();
    let changes = audit
        .lines()
        .filter(|line| line.contains("\"intent\""))
        .count();
    (status.get("seq").and_then(Json::as_u64).unwrap(), changes)
}

#[test]
fn every_field_has_a_row_and_every_row_a_field() {
    let types = Types::of(&["attache.v1"]).unwrap();
    walk(&types).is_whole();
}

fn walk(types: &Types) -> Walk<'_> {
    Walk {
        types,
        rows: ROWS,
        exceptions: EXCEPTIONS,
        strict: true,
        unserved: &[],
    }
}

#[test]
fn bad_requests_are_refused_by_name_and_change_nothing() {
    let scene = Scene::start().unwrap();
    let types = Types::of(&["attache.v1"]).unwrap();
    let _guard = scene.runtime.enter();
    let operator = wire::operator(&scene.bed).unwrap();
    let good = good::furnish(&scene, &operator);
    let (node, joining) = (
        wire::node(&scene.bed).unwrap(),
        wire::joining(&scene.bed, &good.join_token).unwrap(),
    );
    let of = |method: &Method| match method.service.as_str() {
        "attache.v1.Delivery" | "attache.v1.Renewal" => Some(&node),
        "attache.v1.Enrollment" | "attache.v1.Unsealing" => Some(&joining),
        // Its own test: it is for a broker without an operator.
        "attache.v1.Admin" => None,
        _ => Some(&operator),
    };
    let before = state(&scene.bed);
    assert!(before.1 > 5, "changes are counted: {before:?}");
    let (mut wrong, mut sent) = (Vec::new(), 0);
    scene.runtime.block_on(async {
        // What passes is a dry run, or reads.
        for rows in [Rows::Refused, Rows::Passing] {
            for method in &types.methods {
                let Some(channel) = of(method) else { continue };
                let tree = types.parse(&method.input, &good.request(method)).unwrap();
                sent += walk(&types)
                    .bend(channel, method, &tree, rows, &mut wrong)
                    .await;
            }
        }
    });
    assert!(
        wrong.is_empty(),
        "{} of {sent} are wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    assert_eq!(state(&scene.bed), before, "bad input has changed something");
    let log = scene.logs();
    assert!(!log.contains("panicked"), "{log}");
    for planted in [
        CANARY,
        PASSWORD,
        good.join_token.as_str(),
        good.code.as_str(),
        good.deliver.pod_token.as_str(),
    ] {
        assert!(!log.contains(planted), "a log has {planted}");
        assert!(
            !scene.audit().unwrap().contains(planted),
            "the audit has {planted}"
        );
    }
    println!("{sent} bad requests");

    scene.runtime.block_on(async {
        for method in &types.methods {
            let Some(channel) = of(method) else { continue };
            controlled(channel, method, good.request(method)).await;
        }
    });
}

async fn controlled(channel: &Channel, method: &Method, request: Vec<u8>) {
    let expect = CONTROLS.iter().find(|(of, _)| *of == method.name);
    let expect = expect.map_or(Expect::Passes("the control"), |(_, expect)| *expect);
    let answer = call(channel, method, vec![request]).await;
    if let Some(why) = judge(expect, "", &answer) {
        panic!("{}: the control {why}", method.name);
    }
}

/// The admin socket signs for the first operator only: these rows are for a broker that has none.
#[test]
fn bad_requests_to_the_admin_socket_sign_nothing() {
    let mut bed = Bed::new().unwrap();
    bed.init_broker().unwrap();
    bed.start_broker().unwrap();
    let types = Types::of(&["attache.v1"]).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _guard = runtime.enter();
    let admin = wire::admin(&bed).unwrap();
    let methods: Vec<_> = types
        .methods
        .iter()
        .filter(|m| m.service == "attache.v1.Admin")
        .collect();
    let request = |method: &Method| match method.name.as_str() {
        "BootstrapOperator" => pb::BootstrapOperatorRequest {
            name: "ada".into(),
            csr: good::csr(),
        }
        .encode_to_vec(),
        _ => vec![],
    };
    runtime.block_on(async {
        let mut client = pb::admin_client::AdminClient::new(admin.clone());
        let before = client
            .check_store(pb::CheckStoreRequest {})
            .await
            .unwrap()
            .into_inner();
        let mut wrong = Vec::new();
        for method in &methods {
            let tree = types.parse(&method.input, &request(method)).unwrap();
            walk(&types)
                .bend(&admin, method, &tree, Rows::Refused, &mut wrong)
                .await;
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        let after = client
            .check_store(pb::CheckStoreRequest {})
            .await
            .unwrap()
            .into_inner();
        assert_eq!(after, before);
        for method in &methods {
            controlled(&admin, method, request(method)).await;
        }
    });
}
