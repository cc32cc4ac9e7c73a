use super::*;

const LEAST: &str = "[broker]\naddress = \"127.0.0.1:1\"\nenroll_address = \"127.0.0.1:2\"\n[node]\nnode_name = \"node-a\"\n";

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::from_settings(&SCHEMA.parse(text)?)
}

fn refused(text: &str) -> String {
    parse(text).unwrap_err().to_string()
}

#[test]
fn the_least_settings_take_the_documented_defaults() {
    let config = parse(LEAST).unwrap();
    assert_eq!(config.node.driver, "csi.attache.dev");
    assert_eq!(config.node.audience, "attache");
    assert_eq!((config.agent.uid, config.agent.gid), (4840, 4840));
    assert_eq!(config.limits.connect_timeout, Duration::from_secs(2));
    assert_eq!(config.limits.call_timeout, Duration::from_secs(10));
    assert_eq!(config.limits.volume, VolumeLimits::default());
    assert!(config.danger_failpoints.0.is_empty());
    assert!(!config.telemetry.json);
    let mounter = config.mounter();
    assert_eq!(
        (mounter.agent_uid, mounter.driver.as_str()),
        (4840, "csi.attache.dev")
    );
}

#[test]
fn every_refusal_names_its_key() {
    let with = |key: &str, value: &str| {
        let (section, name) = key.split_once('.').unwrap();
        if LEAST.contains(&format!("[{section}]")) {
            LEAST.replace(
                &format!("[{section}]\n"),
                &format!("[{section}]\n{name} = {value}\n"),
            )
        } else {
            format!("{LEAST}[{section}]\n{name} = {value}\n")
        }
    };
    let long = format!("\"/{}\"", "d".repeat(120));
    for (key, value) in [
        ("agent.uid", "0"),
        ("agent.uid", "4294967295"),
        ("agent.gid", "\"4840\""),
        ("agent.state_dir", "\"relative\""),
        ("agent.ipc_dir", long.as_str()),
        ("node.csi_socket", long.as_str()),
        ("node.registration_dir", long.as_str()),
        ("node.driver", "\"CSI\""),
        ("node.driver", "\"-csi\""),
        ("limits.publishes", "0"),
        ("telemetry.format", "\"xml\""),
    ] {
        let message = refused(&with(key, value));
        assert!(message.contains(key), "{key} = {value}: {message}");
    }
    let name = LEAST.replace("node-a", "Node A");
    assert!(
        refused(&name).starts_with("node.node_name"),
        "{}",
        refused(&name)
    );
    for required in ["broker.address", "broker.enroll_address", "node.node_name"] {
        let name = required.split_once('.').unwrap().1;
        let without: String = LEAST
            .lines()
            .filter(|line| !line.starts_with(&format!("{name} =")))
            .map(|line| format!("{line}\n"))
            .collect();
        assert!(
            refused(&without).contains(required),
            "{}",
            refused(&without)
        );
    }
    let message = refused(&format!("{LEAST}[agents]\n"));
    assert!(message.contains("agents"), "{message}");
}

#[test]
fn failpoints_are_listed_by_name() {
    let config = parse(&format!(
        "danger_failpoints = \"after-mount, before-swap\"\n{LEAST}"
    ))
    .unwrap();
    assert_eq!(
        config.danger_failpoints.0,
        [Failpoint::AfterMount, Failpoint::BeforeSwap]
    );
    let message = refused(&format!("danger_failpoints = \"sometimes\"\n{LEAST}"));
    assert!(
        message.contains("danger_failpoints") && message.contains("after-mount"),
        "{message}"
    );
}
