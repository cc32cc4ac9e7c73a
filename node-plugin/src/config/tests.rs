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
    assert!(!config.telemetry.json && config.listen.health.is_none());
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
        ("listen.health", long.as_str()),
        ("listen.health", "\"health.sock\""),
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

#[test]
fn a_node_that_enrolls_by_its_pod_is_told_its_cluster_and_its_broker() {
    let lines = |left_out: &str| {
        let keys = [
            ("broker", "id = \"spiffe://example.internal/broker/b\""),
            ("broker", "trust_bundle_file = \"/trust/bundle.pem\""),
            ("node", "cluster = \"local\""),
            ("agent", "enroll_token_file = \"/enroll/token\""),
        ];
        let mut text = format!("{LEAST}[agent]\n");
        for (section, line) in keys {
            if !line.starts_with(left_out) || left_out.is_empty() {
                text = text.replace(&format!("[{section}]\n"), &format!("[{section}]\n{line}\n"));
            }
        }
        text
    };
    let config = parse(&lines("")).unwrap();
    assert_eq!(
        config.trust.unwrap().bundle_file,
        Path::new("/trust/bundle.pem")
    );
    assert!(
        matches!(config.agent.evidence, Evidence::ServiceAccount { cluster, .. } if cluster.as_str() == "local")
    );
    for (left_out, named) in [
        ("id", "broker.id"),
        ("trust_bundle_file", "broker.trust_bundle_file"),
        ("cluster", "node.cluster"),
        ("enroll_token_file", "agent.enroll_token_file"),
    ] {
        let message = refused(&lines(left_out));
        assert!(message.contains(named), "{left_out}: {message}");
    }
    for (good, bad, key) in [
        (
            "spiffe://example.internal/broker/b",
            "broker-0",
            "broker.id",
        ),
        (
            "spiffe://example.internal/broker/b",
            "spiffe://example.internal/node/c/n",
            "broker.id",
        ),
        ("\"local\"", "\"Lo/cal\"", "node.cluster"),
    ] {
        let message = refused(&lines("").replace(good, bad));
        assert!(message.contains(key), "{bad}: {message}");
    }
    assert!(matches!(
        parse(LEAST).unwrap().agent.evidence,
        Evidence::JoinToken(_)
    ));
}

#[test]
fn the_sockets_paths_are_hosts_that_http_takes() {
    let config = parse(LEAST).unwrap();
    let registration = config
        .node
        .registration_dir
        .join(registration_socket(&config.node.driver));
    for socket in [&config.node.csi_socket, &registration] {
        let sent = socket.display().to_string().replace('/', "%2F");
        assert!(sent.parse::<http::uri::Authority>().is_ok(), "{sent}");
        assert!(is_authority(socket));
    }
    for name in ["csi.sock", "@", "a@", "a@b c", "a@b@c", "a@b:c"] {
        let line = format!("[node]\ncsi_socket = \"/plugins/{name}\"\n");
        let message = refused(&LEAST.replace("[node]\n", &line));
        assert!(message.contains("node.csi_socket"), "{name}: {message}");
    }
}
