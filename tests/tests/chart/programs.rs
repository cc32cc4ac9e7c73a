//! The chart against the programs: their settings, their commands, their metrics.

use std::{collections::BTreeSet, fs, process::Command};

use attache_tests::process::{bin, run};
use serde_json::{Value, json};

use crate::{ALL, NEW, OLD, at, chart, containers, list, name, objects, pods, root, text};

/// The value of a key of a ConfigMap.
fn config_map<'a>(objects: &'a [Value], wanted: &str, key: &str) -> &'a str {
    let object = objects
        .iter()
        .find(|it| name(it) == format!("ConfigMap/{wanted}"));
    at(object.unwrap(), "/data")[key].as_str().unwrap()
}

#[test]
fn the_settings_are_such_as_the_programs_take() {
    let dir = tempfile::tempdir().unwrap();
    for cluster in [&NEW[..], &OLD] {
        for values in [&[][..], &ALL, &["listenAddress=[::]", "kubeletDir=/k"]] {
            let objects = objects(cluster, values);
            for program in ["attache-broker", "attache-node-plugin"] {
                let key = format!("{}.toml", program.trim_start_matches("attache-"));
                let file = dir.path().join(&key);
                fs::write(&file, config_map(&objects, program, &key)).unwrap();
                let mut check = Command::new(bin(program).unwrap());
                check.args(["check-config", "--config"]).arg(&file);
                let checked = run(check.env("ATTACHE_NODE_NAME", "node-a")).unwrap();
                assert!(checked.status.success(), "{checked:?}");
            }
        }
    }
}

#[test]
fn every_command_in_the_chart_is_one_that_its_program_has() {
    let objects = objects(&NEW, &ALL);
    let mut asked = 0;
    for (_, pod) in pods(&objects) {
        for container in containers(pod) {
            let image = text(container, "/image");
            let program = image.rsplit('/').next().unwrap().split(':').next().unwrap();
            assert!(
                at(container, "/command").is_null(),
                "the image says what is run"
            );
            let mut commands = vec![list(container, "/args").to_vec()];
            for probe in ["startupProbe", "readinessProbe", "livenessProbe"] {
                let command = list(container, &format!("/{probe}/exec/command"));
                if let [first, words @ ..] = command {
                    assert_eq!(*first, json!(format!("/usr/bin/{program}")));
                    commands.push(words.to_vec());
                }
            }
            for words in commands {
                let words: Vec<&str> = words.iter().filter_map(Value::as_str).collect();
                let mut help = Command::new(bin(program).unwrap());
                let known = run(help.args(&words).arg("--help")).unwrap();
                assert!(known.status.success(), "{program} {words:?}: {known:?}");
                asked += 1;
            }
        }
    }
    assert!(asked >= 11, "{asked}");
}

/// The names of ours in a query of Prometheus.
fn names_in(query: &str) -> BTreeSet<String> {
    let word = |c: char| !(c.is_ascii_alphanumeric() || c == '_');
    let names = query.split(word).filter(|it| it.starts_with("attache_"));
    names.map(str::to_owned).collect()
}

#[test]
fn each_alert_asks_for_metrics_that_are_on_their_page() {
    let page = fs::read_to_string(root().join("docs/metrics.md")).unwrap();
    let mut told = BTreeSet::new();
    for line in page.lines().filter(|it| it.starts_with("| `attache_")) {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let metric = cells[1].trim_matches('`');
        let series: &[&str] = match cells[2] {
            "gauge" => &[""],
            "counter" => &["_total"],
            "histogram" => &["_bucket", "_count", "_sum"],
            "info" => &["_info"],
            other => panic!("{metric} is a {other}"),
        };
        told.extend(series.iter().map(|it| format!("{metric}{it}")));
    }
    let rules = fs::read_to_string(chart().join("alerts.yaml")).unwrap();
    let rules: Value = serde_saphyr::from_str(&rules).unwrap();
    let mut alerts = BTreeSet::new();
    for rule in list(&rules, "/groups")
        .iter()
        .flat_map(|it| list(it, "/rules"))
    {
        let alert = text(rule, "/alert");
        assert!(alerts.insert(alert), "{alert} is there twice");
        let asked = names_in(text(rule, "/expr"));
        assert!(!asked.is_empty(), "{alert}");
        let unknown: Vec<_> = asked.difference(&told).collect();
        assert!(unknown.is_empty(), "{alert} asks for {unknown:?}");
        assert!(!text(rule, "/annotations/summary").is_empty(), "{alert}");
        let severity = text(rule, "/labels/severity");
        assert!(
            ["critical", "warning", "info"].contains(&severity),
            "{alert}"
        );
    }
    let objects = objects(&NEW, &ALL);
    let rule = objects
        .iter()
        .find(|it| name(it) == "PrometheusRule/attache");
    assert_eq!(rule.unwrap()["spec"], rules);
}
