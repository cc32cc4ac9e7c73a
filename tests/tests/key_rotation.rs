//! Keyspaces' keys, as operators see and change them.

#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test says what is wrong by panicking"
)]

use attache_tests::Scene;
use serde_json::{Value, json};

fn keys(scene: &Scene) -> Value {
    let told = scene.bed.attache_ok(&["key", "list", "--output", "json"]);
    let mut told: Value = serde_json::from_str(&told.unwrap()).unwrap();
    told.get_mut("keys").unwrap().take()
}

#[test]
fn a_key_is_listed_with_the_values_that_it_wraps() {
    let scene = Scene::start().unwrap();
    scene
        .bed
        .attache_ok(&["keyspace", "create", "web"])
        .unwrap();
    let listed: Vec<_> = keys(&scene)
        .as_array()
        .unwrap()
        .iter()
        .map(|key| json!([key["key"], key["state"], key["values"]]))
        .collect();
    assert_eq!(
        listed,
        [
            json!(["payments@1", "active", 2]),
            json!(["web@1", "active", 0])
        ]
    );
    let told = scene
        .bed
        .attache_ok(&["key", "status", "payments"])
        .unwrap();
    let row = told.lines().nth(1).unwrap();
    let words: Vec<_> = row.split_whitespace().collect();
    assert!(
        matches!(words[..], ["payments", "payments@1", _, "2", "0", "-"]),
        "{told}"
    );
    let absent = scene.bed.attache(&["key", "list", "paymnets"]).unwrap();
    assert_eq!(absent.status.code(), Some(5));
}
