//! Newcomers who need an operator's word: a node that comes again, and another operator.

#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test says what is wrong by panicking"
)]

use std::fs;

use attache_mtls::key::LeafKey;
use attache_proto::{attache::v1 as pb, details::Details};
use attache_tests::{
    Bed,
    bed::{CLUSTER, NODE, OTHER_NODE},
    wire,
};
use pb::enrollment_client::EnrollmentClient;
use serde_json::Value;
use tokio::runtime::Runtime;
use tonic::{Code, Status};

fn bed() -> Bed {
    let bed = Bed::signed_in().unwrap();
    bed.add_cluster().unwrap();
    bed
}

fn text<'v>(value: &'v Value, pointer: &str) -> &'v str {
    value.pointer(pointer).and_then(Value::as_str).unwrap()
}

fn join_token(bed: &Bed, node: &str) -> String {
    let made = bed
        .attache_json(&["node", "join-token", "--cluster", CLUSTER, "--node", node])
        .unwrap();
    text(&made, "/token").to_owned()
}

/// The id in `approve ID`, once the plugin's log has it.
fn asked_for(bed: &mut Bed) -> String {
    let log = bed.dir.join("log/node-plugin.log");
    let id = || {
        let log = fs::read_to_string(&log).ok()?;
        let (_, rest) = log.rsplit_once("attache approval approve ")?;
        rest.get(..16).map(str::to_owned)
    };
    let plugin = bed.plugin.as_mut().unwrap();
    plugin.wait_until("waiting for an operator", id).unwrap()
}

/// A machine that lost its state, or another one in its name: it waits, and what is there goes on; approved, it takes over.
#[test]
fn a_plugin_that_lost_its_state_waits_for_an_operator_and_then_goes_on() {
    let mut bed = bed();
    let of_before = join_token(&bed, NODE.0);
    bed.join_node(NODE.0).unwrap();
    bed.start_plugin().unwrap();
    bed.plugin.take().unwrap().stop().unwrap();
    for entry in fs::read_dir(bed.dir.join("node-state")).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
    }
    // In place: the file is the agent's.
    fs::write(bed.dir.join("etc/join-token"), of_before).unwrap();
    bed.launch_plugin().unwrap();
    let id = asked_for(&mut bed);

    let listed = bed.attache_json(&["approval", "list"]).unwrap();
    assert_eq!(text(&listed, "/approvals/0/id"), id);
    assert_eq!(text(&listed, "/approvals/0/state"), "waiting");
    assert_eq!(text(&listed, "/approvals/0/node"), NODE.0);
    let findings = bed
        .attache_json(&["status"])
        .unwrap()
        .pointer("/findings")
        .unwrap()
        .to_string();
    assert!(findings.contains("attache approval list"), "{findings}");
    let shown = bed.attache_ok(&["approval", "show", &id]).unwrap();
    assert!(shown.contains("join-token"), "{shown}");
    let words = [
        "approval",
        "approve",
        id.as_str(),
        "--yes",
        "--reason",
        "its disk was replaced",
    ];
    let tried = [&words[..], &["--dry-run"]].concat();
    bed.attache_ok(&tried).unwrap();
    bed.attache_ok(&words).unwrap();
    bed.await_plugin().unwrap();

    let audit = bed
        .attache_ok(&["audit", "tail", "-n", "100", "--output", "json"])
        .unwrap();
    for told in [
        "comes to enroll again",
        "approval.approve",
        "its disk was replaced",
        "approved by spiffe://",
    ] {
        assert!(audit.contains(told), "{told}: {audit}");
    }
    // It is used up.
    assert_eq!(
        bed.attache_json(&["approval", "list"]).unwrap(),
        serde_json::json!({"approvals": []})
    );
    let again = bed.attache(&words).unwrap();
    assert_eq!(again.status.code(), Some(5));
    let said = String::from_utf8_lossy(&again.stderr).into_owned();
    assert!(said.contains("it was used, or is over"), "{said}");
    // A plugin that starts anew has its identity.
    bed.plugin.take().unwrap().stop().unwrap();
    bed.start_plugin().unwrap();
    assert_eq!(
        bed.attache_json(&["approval", "list"]).unwrap(),
        serde_json::json!({"approvals": []})
    );
}

#[test]
fn a_rejected_key_is_told_so_and_an_approval_serves_no_other_key() {
    let bed = bed();
    let tokens: Vec<_> = (0..3).map(|_| join_token(&bed, OTHER_NODE.0)).collect();
    let runtime = Runtime::new().unwrap();
    let come = |token: &str, key: &LeafKey| -> Result<(), Status> {
        runtime.block_on(async {
            let request = pb::JoinNodeRequest {
                token: token.to_owned(),
                csr: key.certificate_request().unwrap(),
                version: String::new(),
            };
            let mut client = EnrollmentClient::new(wire::joining(&bed, token).unwrap());
            client.join_node(request).await.map(drop)
        })
    };
    let refused = |token: &str, key: &LeafKey, why: &str| {
        let status = come(token, key).unwrap_err();
        assert_eq!(status.code(), Code::PermissionDenied, "{status:?}");
        assert_eq!(Details::of(&status).unwrap().reason, why, "{status:?}");
        status.message().rsplit_once(' ').unwrap().1.to_owned()
    };
    let [first, second, third] = [(); 3].map(|()| LeafKey::generate().unwrap());
    come(&tokens[0], &first).unwrap();
    let id = refused(&tokens[1], &second, "ENROLLMENT_PENDING");
    bed.attache_ok(&["approval", "reject", &id]).unwrap();
    refused(&tokens[1], &second, "ENROLLMENT_REJECTED");
    let twice = bed.attache(&["approval", "reject", &id]).unwrap();
    assert_eq!(twice.status.code(), Some(5));
    // It was a mistake: the key that asked may come, and no other.
    bed.attache_ok(&["approval", "approve", &id, "--yes"])
        .unwrap();
    refused(&tokens[1], &third, "ENROLLMENT_PENDING");
    come(&tokens[1], &second).unwrap();
    refused(&tokens[2], &third, "ENROLLMENT_PENDING");
}

/// The settings of somebody else, on another machine.
struct Desk<'b> {
    bed: &'b Bed,
    config: std::path::PathBuf,
}

impl Desk<'_> {
    fn attache(&self, words: &[&str]) -> (Option<i32>, String) {
        let mut command = self.bed.attache_command().unwrap();
        let done = command
            .env("ATTACHE_CONFIG", &self.config)
            .args(words)
            .output()
            .unwrap();
        let said = [done.stdout, done.stderr].concat();
        (done.status.code(), String::from_utf8(said).unwrap())
    }
}

#[test]
fn a_second_operator_signs_in_by_the_code_of_the_first_and_both_are_on_record() {
    let bed = bed();
    let (grpc, enroll) = bed.broker_addresses().unwrap();
    let (grpc, enroll) = (grpc.to_string(), enroll.to_string());
    let code = bed.attache_ok(&["operator", "add", "bob"]).unwrap();
    let file = bed.dir.join("etc/code");
    fs::write(&file, &code).unwrap();
    let source = format!("@{}", file.display());
    let desk = Desk {
        bed: &bed,
        config: bed.dir.join("bob/config.toml"),
    };
    let sign_in = |desk: &Desk<'_>, name: &str, source: &str| {
        desk.attache(&[
            "login", "--new", name, "--broker", &grpc, "--enroll", &enroll, "--code", source,
        ])
    };
    let (exit, said) = sign_in(&desk, "bob", &source);
    assert_eq!(exit, Some(0), "{said}");
    assert!(
        said.contains("signed in as") && said.contains("operator/bob"),
        "{said}"
    );
    assert!(!said.contains(code.trim()), "{said}");
    let (exit, said) = desk.attache(&["operator", "list"]);
    assert_eq!(exit, Some(0), "{said}");
    assert!(said.contains("ada") && said.contains("bob"), "{said}");

    // It was good once: not for another key, and not under another name.
    let thief = Desk {
        bed: &bed,
        config: bed.dir.join("eve/config.toml"),
    };
    let (exit, said) = sign_in(&thief, "bob", &source);
    assert_eq!(exit, Some(7), "{said}");
    assert!(said.contains("attache operator add"), "{said}");
    let taken = bed.attache(&["operator", "add", "bob"]).unwrap();
    assert_eq!(taken.status.code(), Some(5));

    // The name is the code's: whoever says another one is told so, and the code is still good.
    let code = bed.attache_ok(&["operator", "add", "kim"]).unwrap();
    fs::write(&file, &code).unwrap();
    let (exit, said) = sign_in(&thief, "eve", &source);
    assert_eq!(exit, Some(2), "{said}");
    assert!(said.contains("login --new kim --code"), "{said}");
    let kim = Desk {
        bed: &bed,
        config: bed.dir.join("kim/config.toml"),
    };
    let (exit, said) = sign_in(&kim, "kim", &source);
    assert_eq!(exit, Some(0), "{said}");
    // A CA that the code does not name is no broker.
    let at = code.trim().len() - 10;
    let other = if &code[at..=at] == "A" { "B" } else { "A" };
    fs::write(&file, format!("{}{other}{}", &code[..at], &code[at + 1..])).unwrap();
    let (exit, said) = sign_in(&thief, "kim", &source);
    assert_eq!(exit, Some(1), "{said}");

    let audit = bed
        .attache_ok(&["audit", "tail", "-n", "100", "--output", "json"])
        .unwrap();
    for told in ["operator.add", "operator-code "] {
        assert!(audit.contains(told), "{told}: {audit}");
    }
    assert!(!audit.contains(code.trim()));
}
