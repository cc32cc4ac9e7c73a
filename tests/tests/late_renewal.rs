//! A node whose certificate has really ended: the broker that signed it ran with a clock that was almost an hour behind.
//!
//! Needs Debian's `faketime`, which moves the clock of that one process.

#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test says what is wrong by panicking"
)]

use std::time::Duration;

use attache_tests::{
    Bed,
    bed::NODE,
    process::{clock, until},
};
use jiff::Timestamp;
use serde_json::Value;

/// A certificate of an hour, signed by a clock of so many seconds ago, ends in twenty.
const BEHIND: &str = "-3580";

/// When the certificate of the node ends, and when it enrolled.
fn node(bed: &Bed) -> (Timestamp, Value) {
    let listed = bed.attache_json(&["node", "list"]).unwrap();
    let node = listed.pointer("/nodes/0").unwrap();
    let time = node.pointer("/not_after").and_then(Value::as_str).unwrap();
    (
        time.parse().unwrap(),
        node.pointer("/joined").unwrap().clone(),
    )
}

#[test]
fn a_node_whose_certificate_ended_in_an_outage_renews_late_and_needs_neither_token_nor_operator() {
    let mut bed = Bed::new().unwrap();
    bed.environment = clock(BEHIND);
    bed.init_broker().unwrap();
    bed.start_broker().unwrap();
    bed.pin_addresses().unwrap();
    bed.login("ada").unwrap();
    bed.add_cluster().unwrap();
    bed.join_node(NODE.0).unwrap();
    bed.start_plugin().unwrap();
    bed.plugin.take().unwrap().stop().unwrap();
    let (end, joined) = node(&bed);
    bed.broker.take().unwrap().stop().unwrap();
    until(
        Duration::from_secs(120),
        "the certificate has ended",
        // Certificates know whole seconds, the last one included.
        || (Timestamp::now().as_second() > end.as_second()).then_some(()),
    )
    .unwrap();

    bed.environment.clear();
    bed.start_broker().unwrap();
    bed.start_plugin().unwrap();
    let joined_then = until(Duration::from_secs(60), "the node is live again", || {
        let (end, joined) = node(&bed);
        (end > Timestamp::now()).then_some(joined)
    })
    .unwrap();
    assert_eq!(joined_then, joined, "it did not enroll anew");
    let audit = bed
        .attache_ok(&["audit", "tail", "-n", "100", "--output", "json"])
        .unwrap();
    let told = audit
        .matches("its recorded key, after the certificate's end")
        .count();
    assert_eq!(told, 1, "{audit}");
}
