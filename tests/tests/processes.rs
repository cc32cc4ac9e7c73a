//! Processes as an init system runs them: readiness, health, reloading, draining, recovery.

#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test says what is wrong by panicking"
)]

use std::{
    fs,
    os::unix::net::UnixDatagram,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use attache_mtls::{connect::Connector, tls::anonymous_client_config};
use attache_proto::attache::v1 as pb;
use attache_tests::{
    Bed,
    process::{PATIENCE, Process, bin, children, run},
    wire,
};
use pb::{keyspaces_client::KeyspacesClient, secrets_client::SecretsClient};
use rustix::process::Signal;
use tokio::runtime::Runtime;
use tonic::{
    Code,
    transport::{Channel, Endpoint},
};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

/// A broker with an operator, and no node plugin; started again, it listens where it did.
fn bed() -> Bed {
    let mut bed = Bed::new().unwrap();
    bed.init_broker().unwrap();
    bed.start_broker().unwrap();
    bed.pin_addresses().unwrap();
    bed.login("ada").unwrap();
    bed
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
}

/// The enrollment listener as a joining machine with the trust bundle sees it.
fn enrollment(bed: &Bed) -> Channel {
    let identity = wire::operator_credentials(bed).unwrap();
    let broker = "spiffe://attache.test/broker/broker-0".parse().unwrap();
    let tls = anonymous_client_config(std::sync::Arc::clone(identity.current().bundle()), broker)
        .unwrap();
    let (_, enroll) = bed.broker_addresses().unwrap();
    wire::channel(Connector::new(tls, Duration::from_secs(5)), enroll)
}

fn admin(bed: &Bed) -> Channel {
    let socket = bed.dir.join("broker-admin.sock");
    Endpoint::try_from(format!("unix:{}", socket.display()))
        .unwrap()
        .connect_lazy()
}

fn health_of(service: &str) -> HealthCheckRequest {
    HealthCheckRequest {
        service: service.to_owned(),
    }
}

/// Waits until the broker's log, from `from` on, has `text`.
fn until_logged(broker: &mut Process, from: usize, text: &str) {
    let log = broker.log.clone();
    broker
        .wait_until(text, || log_from(&log, from).contains(text).then_some(()))
        .unwrap();
}

fn log_from(log: &Path, from: usize) -> String {
    let text = fs::read_to_string(log).unwrap();
    text.get(from..).unwrap_or_default().to_owned()
}

fn log_length(log: &Path) -> usize {
    usize::try_from(fs::metadata(log).unwrap().len()).unwrap()
}

#[test]
fn every_listener_tells_its_health_and_only_mutual_tls_has_it_watched() {
    let bed = bed();
    runtime().block_on(async {
        let serving = ServingStatus::Serving;
        for channel in [wire::operator(&bed).unwrap(), enrollment(&bed), admin(&bed)] {
            let mut client = HealthClient::new(channel);
            let answer = client.check(health_of("")).await.unwrap();
            assert!(answer.metadata().contains_key("attache-request-id"));
            assert_eq!(answer.into_inner().status(), serving);
            let unknown = client.check(health_of("attache.v1.Delivery")).await;
            assert_eq!(unknown.unwrap_err().code(), Code::NotFound);
        }
        for channel in [enrollment(&bed), admin(&bed)] {
            let watch = HealthClient::new(channel).watch(health_of("")).await;
            assert_eq!(watch.unwrap_err().code(), Code::Unimplemented);
        }
    });
}

/// Of a broker that stops, who watches hears it, streams that follow end, and nothing waits for the drain's limit.
#[test]
fn sigterm_drains_and_tells_whoever_watches() {
    let mut bed = bed();
    let broker = bed.broker.take().unwrap();
    let runtime = runtime();
    let (mut watch, mut leaves) = runtime.block_on(async {
        let channel = wire::operator(&bed).unwrap();
        let mut watch = HealthClient::new(channel.clone())
            .watch(health_of(""))
            .await
            .unwrap()
            .into_inner();
        let first = watch.message().await.unwrap().unwrap();
        assert_eq!(first.status(), ServingStatus::Serving);
        let request = pb::ReadLeavesRequest {
            follow: true,
            last: 1,
            ..Default::default()
        };
        let mut leaves = pb::audit_client::AuditClient::new(channel)
            .read_leaves(request)
            .await
            .unwrap()
            .into_inner();
        leaves.message().await.unwrap().unwrap();
        (watch, leaves)
    });
    broker.signal(Signal::TERM).unwrap();
    runtime.block_on(async {
        let last = watch.message().await.unwrap().unwrap();
        assert_eq!(last.status(), ServingStatus::NotServing);
        assert!(watch.message().await.unwrap().is_none(), "the watch ends");
        let ended = leaves.message().await.unwrap_err();
        assert_eq!(ended.code(), Code::Unavailable);
        assert!(ended.message().contains("stopping"), "{ended:?}");
    });
    let began = Instant::now();
    broker.stop().unwrap();
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "it waited for {:?}",
        began.elapsed()
    );
    // The end is on record, and the next start begins behind it.
    bed.start_broker().unwrap();
    let tail = bed
        .attache_ok(&["audit", "tail", "-n", "5", "--output", "json"])
        .unwrap();
    assert!(tail.contains("\"kind\":\"stop\""), "{tail}");
}

/// `READY=1` only once it answers, `STOPPING=1` when it is told to end.
#[test]
fn the_service_manager_is_told() {
    let mut bed = bed();
    bed.broker.take().unwrap().stop().unwrap();
    let path = bed.dir.join("notify.sock");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let config = bed.broker_config();
    let broker = Process::start_with(
        "attache-broker",
        &["serve", "--config", config.to_str().unwrap()],
        &[("NOTIFY_SOCKET", path.to_str().unwrap())],
        &bed.dir.join("log/broker.log"),
    )
    .unwrap();
    let heard = || {
        let mut message = [0; 256];
        let length = socket.recv(&mut message).unwrap();
        String::from_utf8_lossy(message.get(..length).unwrap()).into_owned()
    };
    assert!(heard().contains("READY=1"));
    runtime().block_on(async {
        let mut client = HealthClient::new(enrollment(&bed));
        let answer = client.check(health_of("")).await.unwrap();
        assert_eq!(answer.into_inner().status(), ServingStatus::Serving);
    });
    broker.signal(Signal::TERM).unwrap();
    assert!(heard().contains("STOPPING=1"));
    broker.stop().unwrap();
}

/// The serial of the certificate that the broker shows on a new connection.
fn served_serial(bed: &Bed) -> String {
    let connector = wire::connector(&wire::operator_credentials(bed).unwrap()).unwrap();
    let (grpc, _) = bed.broker_addresses().unwrap();
    runtime().block_on(async {
        let stream = connector.connect(grpc).await.unwrap();
        stream.connect_info().peer.unwrap().serial().to_string()
    })
}

#[test]
fn sighup_reloads_the_certificate_and_the_log_filter_and_keeps_what_is_good() {
    let mut bed = bed();
    let mut broker = bed.broker.take().unwrap();
    let log = broker.log.clone();
    let before = served_serial(&bed);

    // A certificate that is gone is made again; the key with it.
    fs::remove_file(bed.store_dir().join("tls/broker.crt")).unwrap();
    let settings = fs::read_to_string(bed.broker_config()).unwrap();
    let debug = format!("{settings}\n[telemetry]\nlog = \"debug\"\n");
    fs::write(bed.broker_config(), debug).unwrap();
    let from = log_length(&log);
    broker.signal(Signal::HUP).unwrap();
    until_logged(&mut broker, from, "reloaded");
    assert_ne!(served_serial(&bed), before);
    bed.attache_ok(&["status"]).unwrap();
    until_logged(&mut broker, from, "/attache.v1.Status/ShowStatus");

    // What cannot be read is left as it was.
    for bad in [
        format!("{settings}\n[telemetry]\nlog = \"attache=loud\"\n"),
        format!("{settings}\n[telemetry]\nlogg = \"info\"\n"),
        String::new(),
    ] {
        fs::write(bed.broker_config(), bad).unwrap();
        let from = log_length(&log);
        broker.signal(Signal::HUP).unwrap();
        until_logged(&mut broker, from, "the log filter was not reloaded");
        bed.attache_ok(&["keyspace", "list"]).unwrap();
        until_logged(&mut broker, from, "/attache.v1.Keyspaces/ListKeyspaces");
    }
    broker.stop().unwrap();
}

#[test]
fn every_answer_has_an_id_that_the_log_and_the_command_line_show_too() {
    let mut bed = bed();
    let mut broker = bed.broker.take().unwrap();
    let id = runtime().block_on(async {
        let channel = wire::operator(&bed).unwrap();
        let fine = KeyspacesClient::new(channel.clone())
            .list_keyspaces(pb::ListKeyspacesRequest::default())
            .await
            .unwrap();
        let first = fine.metadata().get("attache-request-id").unwrap().clone();
        let refused = SecretsClient::new(channel)
            .show_secret(pb::ShowSecretRequest::default())
            .await
            .unwrap_err();
        let second = refused
            .metadata()
            .get("attache-request-id")
            .unwrap()
            .clone();
        assert_ne!(first, second);
        second.to_str().unwrap().to_owned()
    });
    let (boot, _) = id.split_once('-').unwrap();

    let output = bed.attache(&["secret", "show", "payments/db"]).unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    let last = error.lines().last().unwrap();
    assert!(
        last.starts_with(&format!("  request: {boot}-")),
        "the id comes last: {error}"
    );

    // A failure that only the log explains is found there by the id.
    let settings = fs::read_to_string(bed.broker_config()).unwrap();
    fs::write(
        bed.broker_config(),
        format!("{settings}\n[telemetry]\nlog = \"debug\"\n"),
    )
    .unwrap();
    let from = log_length(&broker.log);
    broker.signal(Signal::HUP).unwrap();
    until_logged(&mut broker, from, "reloaded");
    let output = bed.attache(&["secret", "show", "payments/db"]).unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    let id = error
        .lines()
        .last()
        .unwrap()
        .trim()
        .replace("request: ", "");
    until_logged(&mut broker, from, &format!("request={id}"));
}

#[test]
fn an_operator_is_recovered_only_with_the_broker_stopped_and_the_key_file_at_hand() {
    let mut bed = bed();
    let csr = bed.dir.join("etc/bob.csr");
    bed.attache_ok(&[
        "login",
        "--new",
        "bob",
        "--context",
        "bob",
        "--broker",
        &bed.broker_addresses().unwrap().0.to_string(),
        "--broker-id",
        "spiffe://attache.test/broker/broker-0",
        "--trust-bundle",
        bed.store_dir().join("trust-bundle.pem").to_str().unwrap(),
        "--csr",
        csr.to_str().unwrap(),
    ])
    .unwrap();
    let recover = |bed: &Bed| {
        let mut command = Command::new(bin("attache-broker").unwrap());
        command
            .args(["bootstrap", "operator", "bob", "--recover", "--csr"])
            .arg(&csr)
            .arg("--config")
            .arg(bed.broker_config());
        run(&mut command).unwrap()
    };
    let error = |output: &std::process::Output| {
        assert!(!output.status.success() && output.stdout.is_empty());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let running = error(&recover(&bed));
    assert!(running.contains("stop the broker"), "{running}");
    bed.broker.take().unwrap().stop().unwrap();
    let (slot, aside) = (bed.dir.join("etc/slot.key"), bed.dir.join("etc/aside"));
    fs::rename(&slot, &aside).unwrap();
    let without = error(&recover(&bed));
    assert!(without.contains("slot"), "{without}");
    fs::rename(&aside, &slot).unwrap();

    let recovered = recover(&bed);
    assert!(recovered.status.success(), "{recovered:?}");
    let chain = bed.dir.join("etc/bob.pem");
    fs::write(&chain, recovered.stdout).unwrap();
    bed.start_broker().unwrap();
    bed.attache_ok(&[
        "login",
        "--context",
        "bob",
        "--finish",
        chain.to_str().unwrap(),
    ])
    .unwrap();
    let operators = bed
        .attache_ok(&["operator", "list", "--context", "bob", "--output", "name"])
        .unwrap();
    assert_eq!(operators, "ada\nbob\n");
    let tail = bed
        .attache_ok(&["audit", "tail", "-n", "20", "--output", "json"])
        .unwrap();
    assert!(tail.contains("made by recovery"), "{tail}");
    bed.attache_ok(&["audit", "verify"]).unwrap();
}

/// The plugin's three processes take SIGHUP up and none ends of it; the agent shows what is on disk.
#[test]
fn sighup_reloads_the_plugins_log_filter_certificate_and_bundle() {
    let mut bed = Bed::start().unwrap();
    let mut plugin = bed.plugin.take().unwrap();
    let log = plugin.log.clone();
    let before = children(plugin.pid()).unwrap();
    let settings = fs::read_to_string(bed.plugin_config()).unwrap();
    fs::write(
        bed.plugin_config(),
        format!("{settings}\n[telemetry]\nlog = \"debug\"\n"),
    )
    .unwrap();
    let from = log_length(&log);
    plugin.signal(Signal::HUP).unwrap();
    until_logged(
        &mut plugin,
        from,
        "reloaded the certificate and the trust bundle",
    );
    plugin
        .wait_until("both halves", || {
            let reloaded = log_from(&log, from)
                .matches("reloaded the log filter")
                .count();
            (reloaded == 2).then_some(())
        })
        .unwrap();
    assert_eq!(children(plugin.pid()).unwrap(), before);

    let bundle = bed.dir.join("node-state/bundle.pem");
    let good = fs::read(&bundle).unwrap();
    fs::write(&bundle, "junk").unwrap();
    let from = log_length(&log);
    plugin.signal(Signal::HUP).unwrap();
    until_logged(&mut plugin, from, "the certificate was not reloaded");
    fs::write(&bundle, good).unwrap();
    let from = log_length(&log);
    plugin.signal(Signal::HUP).unwrap();
    until_logged(
        &mut plugin,
        from,
        "reloaded the certificate and the trust bundle",
    );
    assert_eq!(children(plugin.pid()).unwrap(), before);
    plugin.stop().unwrap();
}
