//! What broker and node plugin measure: on its page, counted right, and without a name in it.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a helper of a test says what is wrong by panicking"
)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    time::Instant,
};

use attache_tests::{
    Scene,
    bed::{AUDIENCE, NODE},
    pod::Pod,
    process::PATIENCE,
    raw::{Method, call},
    wire,
};

/// The samples of an answer: name with labels, and value.
fn samples(answer: &str) -> BTreeMap<&str, f64> {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK"), "{head}");
    assert!(head.contains("application/openmetrics-text"), "{head}");
    assert!(body.trim_end().ends_with("# EOF"), "{body}");
    body.lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.rsplit_once(' '))
        .filter_map(|(name, value)| Some((name, value.parse().ok()?)))
        .collect()
}

fn sample(of: &BTreeMap<&str, f64>, name: &str) -> f64 {
    *of.get(name)
        .unwrap_or_else(|| panic!("no {name} among {of:#?}"))
}

fn deliveries(of: &BTreeMap<&str, f64>, result: &str, reason: &str) -> f64 {
    let labels = format!("{{result=\"{result}\",reason=\"{reason}\"}}");
    sample(of, &format!("attache_broker_deliveries_total{labels}"))
}

#[test]
fn calls_and_deliveries_are_counted_by_how_they_ended() {
    let scene = Scene::start().unwrap();
    let pod = Pod::new("shop", "web-0", "web", NODE, "payments/db");
    scene.publish(&pod).unwrap();
    let stranger = Pod::new("shop", "batch-0", "batch", NODE, "payments/db");
    let token = scene.bed.token(&stranger).unwrap();
    scene.refused(&stranger, AUDIENCE, &token).unwrap();
    let absent = scene.bed.attache(&["secret", "show", "payments/none"]);
    assert!(!absent.unwrap().status.success());
    let answer = scene.bed.metrics().unwrap();
    let told = samples(&answer);
    assert!(deliveries(&told, "released", "") >= 1.0);
    assert!(deliveries(&told, "refused", "DENIED") >= 1.0);
    let calls = |method: &str, code: &str| {
        let labels = format!("{{method=\"attache.v1.{method}\",code=\"{code}\"}}");
        sample(
            &told,
            &format!("attache_broker_call_duration_seconds_count{labels}"),
        )
    };
    assert!(calls("Delivery/Deliver", "OK") >= 1.0);
    assert!(calls("Delivery/Deliver", "PERMISSION_DENIED") >= 1.0);
    assert!(calls("Secrets/ShowSecret", "NOT_FOUND") >= 1.0);
}

#[test]
fn how_things_stand_is_looked_at_when_it_is_asked_for() {
    let scene = Scene::start().unwrap();
    let before = scene.bed.metrics().unwrap();
    scene.put("payments/other", &[("f", "v")]).unwrap();
    let after = scene.bed.metrics().unwrap();
    let (before, after) = (samples(&before), samples(&after));
    for grown in ["audit_leaves", "store_sequence"] {
        let name = format!("attache_broker_{grown}");
        assert!(sample(&after, &name) > sample(&before, &name), "{name}");
    }
    for (name, least, most) in [
        ("serving", 1.0, 1.0),
        ("audit_full", 0.0, 0.0),
        ("nodes", 1.0, 1.0),
        ("bans", 0.0, 0.0),
        ("audit_disk_free_bytes", 1.0, f64::MAX),
        ("store_disk_free_bytes", 1.0, f64::MAX),
        ("store_size_bytes", 4096.0, f64::MAX),
        // 90 days and ten years, less what has passed since.
        (
            "certificate_life_left_seconds",
            89.0 * 86_400.0,
            90.0 * 86_400.0,
        ),
        (
            "ca_life_left_seconds",
            3_600.0 * 86_400.0,
            3_660.0 * 86_400.0,
        ),
    ] {
        let value = sample(&after, &format!("attache_broker_{name}"));
        assert!((least..=most).contains(&value), "{name} is {value}");
    }
}

/// Labels hold what was written here and nothing that anybody named.
#[test]
fn metrics_name_nobody_and_callers_choose_no_label() {
    let scene = Scene::start().unwrap();
    let pod = Pod::new("shop", "web-0", "web", NODE, "payments/db");
    scene.publish(&pod).unwrap();
    let _guard = scene.runtime.enter();
    let channel = wire::operator(&scene.bed).unwrap();
    let method = Method {
        service: "attache.v1.Secrets".into(),
        name: "ReadThemAll".into(),
        input: String::new(),
    };
    let status = scene
        .runtime
        .block_on(call(&channel, &method, vec![vec![]]));
    assert_eq!(status.unwrap_err().code(), tonic::Code::Unimplemented);
    let answer = scene.bed.metrics().unwrap();
    assert!(
        answer.contains("method=\"unknown\",code=\"UNIMPLEMENTED\""),
        "{answer}"
    );
    for name in [
        "ReadThemAll",
        "payments",
        "shop",
        "web-0",
        "ada",
        NODE.0,
        NODE.1,
    ] {
        assert!(!answer.contains(name), "{name} in {answer}");
    }
}

/// Asks the plugin until its metrics are so.
fn until(scene: &Scene, what: &str, holds: impl Fn(&BTreeMap<&str, f64>) -> bool) {
    let begun = Instant::now();
    loop {
        let answer = scene.bed.plugin_metrics().unwrap();
        let told = samples(&answer);
        if holds(&told) {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "not {what}: {told:#?}");
    }
}

fn plugin(of: &BTreeMap<&str, f64>, name: &str) -> f64 {
    let name = format!("attache_node_plugin_{name}");
    of.get(name.as_str()).copied().unwrap_or_default()
}

#[test]
fn a_node_counts_what_became_of_its_volumes_and_how_things_stand() {
    let mut scene = Scene::start().unwrap();
    let pod = Pod::new("shop", "web-0", "web", NODE, "payments/db");
    scene.publish(&pod).unwrap();
    let stranger = Pod::new("shop", "batch-0", "batch", NODE, "payments/db");
    let token = scene.bed.token(&stranger).unwrap();
    scene.refused(&stranger, AUDIENCE, &token).unwrap();
    scene.publish(&pod).unwrap();
    until(&scene, "refreshed", |told| {
        plugin(told, "refresh_duration_seconds_count{result=\"unchanged\"}") >= 1.0
    });
    let answer = scene.bed.plugin_metrics().unwrap();
    let told = samples(&answer);
    let publishes = |volume: &str, result: &str| {
        let labels = format!("{{volume=\"{volume}\",result=\"{result}\"}}");
        plugin(&told, &format!("publish_duration_seconds_count{labels}"))
    };
    assert_eq!(publishes("new", "published"), 1.0);
    assert_eq!(publishes("new", "refused"), 1.0);
    assert_eq!(publishes("present", "published"), 1.0);
    for (name, value) in [
        ("ready", 1.0),
        ("mounter_connected", 1.0),
        ("broker_reachable", 1.0),
        ("volumes", 1.0),
        ("volumes_in_trouble", 0.0),
    ] {
        assert_eq!(plugin(&told, name), value, "{name}");
    }
    let left = plugin(&told, "certificate_life_left_seconds");
    assert!((1.0..=3600.0).contains(&left), "{left}");

    scene.bed.broker.take().unwrap().kill().unwrap();
    scene.publish(&pod).unwrap();
    until(&scene, "without a broker", |told| {
        plugin(
            told,
            "refresh_duration_seconds_count{result=\"broker_away\"}",
        ) >= 1.0
    });
    let answer = scene.bed.plugin_metrics().unwrap();
    let told = samples(&answer);
    assert_eq!(plugin(&told, "broker_reachable"), 0.0);
    assert_eq!(plugin(&told, "ready"), 1.0, "what is mounted needs none");
    assert_eq!(plugin(&told, "volumes_in_trouble"), 1.0);
    scene.unpublish(&pod).unwrap();
    until(&scene, "unpublished", |told| {
        let done = "unpublish_duration_seconds_count{result=\"unpublished\"}";
        plugin(told, done) >= 1.0 && plugin(told, "volumes") == 0.0
    });
    for name in ["payments", "shop", "web-0", NODE.0, NODE.1] {
        assert!(!answer.contains(name), "{name} in {answer}");
    }
}

/// The metrics of an answer, each with its type.
fn types(answer: &str) -> BTreeSet<(String, String)> {
    answer
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '))
        .map(|(name, kind)| (name.to_owned(), kind.to_owned()))
        .collect()
}

#[test]
fn the_page_lists_each_metric_with_its_type_and_no_other() {
    let scene = Scene::start().unwrap();
    // What has labels shows once something is in it.
    let pod = Pod::new("shop", "web-0", "web", NODE, "payments/db");
    scene.publish(&pod).unwrap();
    scene.publish(&pod).unwrap();
    until(&scene, "refreshed", |told| {
        plugin(told, "refresh_duration_seconds_count{result=\"unchanged\"}") >= 1.0
    });
    scene.unpublish(&pod).unwrap();
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
    let page = fs::read_to_string(page).unwrap();
    let listed: BTreeSet<(String, String)> = page
        .lines()
        .filter(|line| line.starts_with("| `attache_"))
        .map(|line| {
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            let cell = |n: usize| cells.get(n).copied().unwrap_or_default();
            (cell(1).trim_matches('`').to_owned(), cell(2).to_owned())
        })
        .collect();
    let mut told = types(&scene.bed.metrics().unwrap());
    told.extend(types(&scene.bed.plugin_metrics().unwrap()));
    // This broker's cluster is a folder: it has asked no API server anything.
    let of_api_server = [
        (
            "attache_broker_kubernetes_call_duration_seconds",
            "histogram",
        ),
        ("attache_broker_kubernetes_answers", "counter"),
    ];
    told.extend(of_api_server.map(|(name, kind)| (name.to_owned(), kind.to_owned())));
    assert_eq!(listed, told);
}
