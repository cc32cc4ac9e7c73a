//! The chapters.

use std::{
    fs,
    path::Path,
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use attache_tests::{
    Bed,
    bed::{AUDIENCE, CLUSTER, NODE, OTHER_NODE},
    container::Container,
    kubelet::Kubelet,
    mounts,
    pod::{Container as PodContainer, Pod, hardened},
    process::PATIENCE,
};
use serde_json::Value;
use tokio::runtime::Runtime;
use tonic::Status;

use crate::narrator::Narrator;

/// The operator's first value of `payments/db#password`.
const PASSWORD: &str = "correct horse battery staple";
/// The second.
const NEW_PASSWORD: &str = "tr0ub4dor-and-three";
/// `payments/db#username`.
const USERNAME: &str = "shop";

/// What runs on when the story is kept.
pub(crate) struct Left {
    /// The published pod.
    pub(crate) pod: Pod,
    /// Its containers.
    pub(crate) containers: Vec<Container>,
}

/// Tells the whole story. With `keep`, it ends before the volume is unpublished.
pub(crate) fn tell(bed: &mut Bed, say: &Narrator, runtime: &Runtime, keep: bool) -> Result<Left> {
    let _guard = runtime.enter();
    broker(bed, say)?;
    secret(bed, say)?;
    node(bed, say)?;
    let kubelet = bed.kubelet()?;
    let pod = Pod::new("shop", "web-0", "web", NODE, "payments/db").with_sidecar("sidecar");
    publish(bed, say, runtime, &kubelet, &pod)?;
    let containers = containers(bed, say, &kubelet, &pod)?;
    refusals(bed, say, runtime, &kubelet)?;
    rotation(bed, say, runtime, &kubelet, &pod, &containers)?;
    if !keep {
        drop(containers);
        unpublish(bed, say, runtime, &kubelet, &pod)?;
        audit(bed, say)?;
        return Ok(Left {
            pod,
            containers: Vec::new(),
        });
    }
    audit(bed, say)?;
    Ok(Left { pod, containers })
}

fn broker(bed: &mut Bed, say: &Narrator) -> Result<()> {
    say.chapter("1. A broker, and its first operator")?;
    say.command(&format!(
        "attache-broker init --config {}",
        bed.broker_config().display()
    ))?;
    bed.init_broker()?;
    let slot = fs::metadata(bed.dir.join("etc/slot.key"))?;
    let mode = std::os::unix::fs::PermissionsExt::mode(&slot.permissions()) & 0o777;
    say.checked(
        "the key file is there, readable by its owner alone (0400)",
        mode == 0o400,
    )?;
    say.command(&format!(
        "attache-broker serve --config {} &",
        bed.broker_config().display()
    ))?;
    bed.start_broker()?;
    let (grpc, enroll) = bed.broker_addresses()?;
    say.checked(
        &format!("it listens on {grpc} (mutual TLS) and {enroll} (joining nodes)"),
        grpc != enroll,
    )?;
    say.command("attache login --new ada ... && attache-broker bootstrap operator ada ... && attache login --finish ...")?;
    bed.login("ada")?;
    let operators: Value =
        serde_json::from_str(&bed.attache_ok(&["operator", "list", "--output", "json"])?)?;
    say.checked(
        "ada is an operator; her key was made by the CLI and never left it",
        operators.to_string().contains("/operator/ada"),
    )
}

fn secret(bed: &Bed, say: &Narrator) -> Result<()> {
    say.chapter("2. A secret, sealed by the operator")?;
    say.attache(bed, &["keyspace", "create", "payments"])?;
    let password = bed.dir.join("etc/password");
    fs::write(&password, PASSWORD)?;
    say.command(&format!(
        "attache secret put payments/db username=- password=@{} < username",
        password.display()
    ))?;
    put(
        bed,
        &["username=-", &format!("password=@{}", password.display())],
        Some(USERNAME),
    )?;
    fs::remove_file(&password)?;
    let shown = bed.attache_ok(&["secret", "show", "payments/db", "--output", "json"])?;
    say.checked(
        "payments/db has version 1 with the fields password and username",
        has(&shown, &["\"password\"", "\"username\""]),
    )?;
    say.checked(
        "what the CLI shows holds no value",
        !shown.contains(PASSWORD) && !shown.contains(USERNAME_IN_QUOTES),
    )?;
    let stored = fs::read(bed.store_dir().join("store.redb"))?;
    say.checked(
        "the value is nowhere in the broker's store file",
        !contains(&stored, PASSWORD.as_bytes()),
    )?;
    say.attache(
        bed,
        &[
            "grant",
            "add",
            "shop-web-db",
            "payments/db",
            "--to",
            "local/shop/web/app",
        ],
    )?;
    let grants = bed.attache_ok(&["grant", "list", "--output", "json"])?;
    say.checked("the grant is listed", has(&grants, &["shop-web-db"]))
}

/// The user name as a JSON value: the word alone is part of other names.
const USERNAME_IN_QUOTES: &str = "\"shop\"";

fn node(bed: &mut Bed, say: &Narrator) -> Result<()> {
    say.chapter("3. A node joins with a one-time token")?;
    let folder = bed.cluster.dir.display().to_string();
    say.command(&format!(
        "attache cluster add {CLUSTER} --issuer {} --audience {AUDIENCE} --folder {folder}",
        bed.issuer.url
    ))?;
    bed.add_cluster()?;
    say.command(&format!(
        "attache node join-token --cluster {CLUSTER} --node {} > join-token",
        NODE.0
    ))?;
    bed.join_node(NODE.0)?;
    say.command(&format!(
        "attache-node-plugin serve --config {} &",
        bed.plugin_config().display()
    ))?;
    bed.start_plugin()?;
    let nodes = bed.attache_ok(&["node", "list", "--output", "json"])?;
    say.checked(
        &format!("the node is known by its uid {}", NODE.1),
        has(&nodes, &[NODE.1]),
    )?;
    let certificate = bed.dir.join("node-state");
    say.checked(
        "its certificate is for one hour",
        (3500..=3700).contains(&certificate_seconds(&certificate)?),
    )
}

fn publish(
    bed: &Bed,
    say: &Narrator,
    runtime: &Runtime,
    kubelet: &Kubelet,
    pod: &Pod,
) -> Result<()> {
    say.chapter("4. A pod with two containers, published through CSI")?;
    bed.cluster.add_pod(pod)?;
    let token = bed.token(pod)?;
    let target = kubelet.target(pod);
    say.command(&format!(
        "kubelet -> NodePublishVolume {} (container: app, secrets: payments/db)",
        pod.volume_id()
    ))?;
    let before = Instant::now();
    runtime
        .block_on(kubelet.publish(pod, AUDIENCE, &token))
        .map_err(failed)?;
    let took = before.elapsed();
    let mounted = mounts::below(&target)?;
    let [mount] = mounted.as_slice() else {
        bail!("{} mounts at {}", mounted.len(), target.display())
    };
    say.checked(
        &format!(
            "one tmpfs is mounted for it, {:.1} ms after the call",
            took.as_secs_f64() * 1e3
        ),
        mount.kind == "tmpfs",
    )?;
    say.checked(
        "its source is the volume id",
        mount.source == pod.volume_id(),
    )?;
    let options = format!("{},{}", mount.options, mount.super_options);
    say.checked(
        &format!("its options: {options}"),
        has(&options, &["nosuid", "nodev", "noexec", "size="]),
    )?;
    say.checked(
        "the password is there",
        fs::read_to_string(target.join("db/password"))? == PASSWORD,
    )?;
    let owner = fs::metadata(target.join("db/password"))?;
    let (uid, mode) = (
        std::os::unix::fs::MetadataExt::uid(&owner),
        std::os::unix::fs::PermissionsExt::mode(&owner.permissions()),
    );
    say.checked(
        "it belongs to uid 1000 and only its owner may read it (0400)",
        uid == 1000 && mode & 0o777 == 0o400,
    )
}

fn containers(bed: &Bed, say: &Narrator, kubelet: &Kubelet, pod: &Pod) -> Result<Vec<Container>> {
    say.chapter("5. Both containers run under runc")?;
    let target = kubelet.target(pod);
    let dir = bed.dir.join("containers");
    let unique = std::process::id();
    let app = Container::start(
        &dir,
        &format!("attache-try-{unique}-app"),
        1000,
        &[(&target, "/secrets", true)],
    )?;
    let sidecar = Container::start(&dir, &format!("attache-try-{unique}-sidecar"), 1001, &[])?;
    say.command("runc exec app cat /secrets/db/password")?;
    say.checked(
        "app reads its password",
        stdout(&app.exec("cat /secrets/db/password")?) == PASSWORD,
    )?;
    say.command("runc exec app sh -c 'echo x > /secrets/db/password'")?;
    say.checked(
        "app cannot write there",
        !app.exec("echo x > /secrets/db/password")?.status.success(),
    )?;
    say.command("runc exec sidecar cat /secrets/db/password")?;
    let output = sidecar.exec("cat /secrets/db/password")?;
    say.checked(
        "sidecar has no such path",
        !output.status.success()
            && String::from_utf8_lossy(&output.stderr).contains("No such file"),
    )?;
    Ok(vec![app, sidecar])
}

fn refusals(bed: &Bed, say: &Narrator, runtime: &Runtime, kubelet: &Kubelet) -> Result<()> {
    say.chapter("6. What is refused, with the line that the pod's author sees")?;
    let refused =
        |what: &str, pod: &Pod, audience: &str, token: &str, expect: &[&str]| -> Result<()> {
            bed.cluster.add_pod(pod)?;
            say.command(&format!("kubelet -> NodePublishVolume: {what}"))?;
            let Err(status) = runtime.block_on(kubelet.publish(pod, audience, token)) else {
                bail!("{what}: was published");
            };
            say.quote(status.message());
            let left = mounts::below(&kubelet.target(pod))?;
            say.checked(
                "refused, for that reason, and nothing is mounted",
                has(status.message(), expect) && left.is_empty(),
            )
        };
    let pod = Pod::new("shop", "batch-0", "batch", NODE, "payments/db");
    refused(
        "another service account",
        &pod,
        AUDIENCE,
        &bed.token(&pod)?,
        &[
            "denied (decision ",
            "no grant lets local/shop/batch/app read payments/db",
            "attache why ",
        ],
    )?;

    let pod = Pod::new("shop", "web-1", "web", OTHER_NODE, "payments/db");
    refused(
        "a token from another node",
        &pod,
        AUDIENCE,
        &bed.token(&pod)?,
        &["the token names another node"],
    )?;

    let pod = Pod::new("shop", "web-2", "web", NODE, "payments/db");
    let wrong = bed.issuer.mint(&pod, "https://kubernetes.default.svc")?;
    refused(
        "a token for another audience",
        &pod,
        AUDIENCE,
        &wrong,
        &["audience"],
    )?;

    let mut pod = Pod::new("shop", "web-3", "web", NODE, "payments/db");
    pod.containers.push(PodContainer {
        name: "second".into(),
        mounts: true,
        security_context: hardened(1000),
    });
    refused(
        "a second container that mounts the volume",
        &pod,
        AUDIENCE,
        &bed.token(&pod)?,
        &["app", "second", "mount"],
    )?;

    let mut pod = Pod::new("shop", "web-4", "web", NODE, "payments/db");
    if let Some(container) = pod.containers.first_mut() {
        container.security_context = serde_json::json!({ "runAsUser": 0, "runAsGroup": 0 });
    }
    refused(
        "a container that runs as root",
        &pod,
        AUDIENCE,
        &bed.token(&pod)?,
        &["root", "runAsUser"],
    )
}

fn rotation(
    bed: &Bed,
    say: &Narrator,
    runtime: &Runtime,
    kubelet: &Kubelet,
    pod: &Pod,
    containers: &[Container],
) -> Result<()> {
    say.chapter("7. One field is changed, under the running container")?;
    let app = containers.first().context("app runs")?;
    let before = metadata(&kubelet.target(pod))?;
    say.command(
        "attache secret put payments/db password=- < new-password     # username is carried over",
    )?;
    put(bed, &["password=-"], Some(NEW_PASSWORD))?;
    say.command("kubelet -> NodePublishVolume again (a republish)")?;
    runtime
        .block_on(kubelet.publish(pod, AUDIENCE, &bed.token(pod)?))
        .map_err(failed)?;
    let deadline = Instant::now() + PATIENCE;
    while metadata(&kubelet.target(pod))? == before {
        if Instant::now() > deadline {
            bail!("the new generation did not come within {PATIENCE:?}");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    say.checked(
        "app reads the new password, from the same mount",
        stdout(&app.exec("cat /secrets/db/password")?) == NEW_PASSWORD,
    )?;
    say.checked(
        "and the user name that was carried over",
        stdout(&app.exec("cat /secrets/db/username")?) == USERNAME,
    )?;
    let generations = fs::read_dir(kubelet.target(pod))?
        .filter_map(Result::ok)
        .filter(|e| e.file_type().is_ok_and(|t| t.is_dir()))
        .count();
    say.checked(
        "one generation is on the mount: the old one is gone",
        generations == 1,
    )
}

fn unpublish(
    bed: &Bed,
    say: &Narrator,
    runtime: &Runtime,
    kubelet: &Kubelet,
    pod: &Pod,
) -> Result<()> {
    say.chapter("8. The pod goes")?;
    say.command(&format!(
        "kubelet -> NodeUnpublishVolume {}",
        pod.volume_id()
    ))?;
    runtime.block_on(kubelet.unpublish(pod)).map_err(failed)?;
    say.checked(
        "nothing is mounted under kubelet's folder",
        mounts::below(&bed.kubelet_dir())?.is_empty(),
    )?;
    runtime.block_on(kubelet.unpublish(pod)).map_err(failed)?;
    say.checked("unpublishing again is no error", true)
}

fn audit(bed: &Bed, say: &Narrator) -> Result<()> {
    say.chapter("9. The audit log has all of it, and proves itself")?;
    let tail = say.attache(bed, &["audit", "tail", "-n", "200", "--output", "json"])?;
    let count = |kind: &str| {
        tail.matches(&format!("\"kind\": \"{kind}\"")).count()
            + tail.matches(&format!("\"kind\":\"{kind}\"")).count()
    };
    say.checked(
        "two releases: the publish and the rotation",
        count("release") == 2,
    )?;
    say.checked("five denials", count("denial") == 5)?;
    say.checked(
        "no value is in it",
        !tail.contains(PASSWORD) && !tail.contains(NEW_PASSWORD),
    )?;
    let report = say.attache(bed, &["audit", "verify"])?;
    say.quote(report.trim_end());
    say.checked(
        "every leaf is under the signed checkpoint",
        !report.is_empty(),
    )?;
    let copy = bed.dir.join("audit-copy");
    edited_copy(&bed.audit_dir(), &copy)?;
    let status: Value = serde_json::from_str(&bed.attache_ok(&["status", "--output", "json"])?)?;
    let vkey = status
        .get("audit_vkey")
        .and_then(Value::as_str)
        .context("status has audit_vkey")?
        .to_owned();
    let copy_name = copy.display().to_string();
    let output = say.attache_output(bed, &["audit", "verify", &copy_name, "--vkey", &vkey])?;
    say.checked(
        "a copy with one byte changed does not verify (exit 8)",
        output.status.code() == Some(8),
    )?;
    fs::remove_dir_all(copy)?;
    Ok(())
}

/// `attache secret put payments/db FIELDS`, with `input` on its standard input.
fn put(bed: &Bed, fields: &[&str], input: Option<&str>) -> Result<()> {
    use std::io::Write;
    let mut child = bed
        .attache_command()?
        .args(["secret", "put", "payments/db"])
        .args(fields)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    if let (Some(mut pipe), Some(input)) = (child.stdin.take(), input) {
        pipe.write_all(input.as_bytes())?;
    }
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!(
            "attache secret put: {}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(())
}

/// The metadata file of a mount.
fn metadata(target: &Path) -> Result<Value> {
    Ok(serde_json::from_slice(&fs::read(
        target.join(".attache.json"),
    )?)?)
}

/// How long the newest certificate in a folder is valid, by openssl.
fn certificate_seconds(dir: &Path) -> Result<i64> {
    let file = fs::read_dir(dir)?
        .filter_map(Result::ok)
        .map(|e| e.path())
        .find(|p| {
            p.extension().is_some_and(|e| e == "crt" || e == "pem")
                && fs::read_to_string(p).is_ok_and(|t| t.contains("BEGIN CERTIFICATE"))
                && !p.to_string_lossy().contains("bundle")
        })
        .with_context(|| format!("no certificate in {}", dir.display()))?;
    let output = Command::new("openssl")
        .args(["x509", "-noout", "-dates", "-in"])
        .arg(&file)
        .output()?;
    let text = stdout(&output);
    let date = |key: &str| -> Result<i64> {
        let value = text
            .lines()
            .find_map(|l| l.strip_prefix(key))
            .with_context(|| format!("no {key} in {text:?}"))?;
        let output = Command::new("date")
            .args(["-u", "-d", value, "+%s"])
            .output()?;
        Ok(stdout(&output).trim().parse()?)
    };
    Ok(date("notAfter=")? - date("notBefore=")?)
}

/// A copy of a folder of segments in which one byte of the first leaf is another.
fn edited_copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)?
        .filter_map(Result::ok)
        .filter(|e| e.file_type().is_ok_and(|t| t.is_file()))
    {
        fs::copy(entry.path(), to.join(entry.file_name()))?;
    }
    let mut files: Vec<_> = fs::read_dir(to)?
        .filter_map(Result::ok)
        .map(|e| e.path())
        .filter(|p| fs::metadata(p).is_ok_and(|m| m.len() > 128))
        .collect();
    files.sort();
    let first = files.first().context("there is a segment")?;
    let mut bytes = fs::read(first)?;
    // Behind the segment's header (64) and the record's head (5), within the first leaf.
    let byte = bytes
        .get_mut(64 + 5 + 20)
        .context("the segment has a leaf")?;
    *byte ^= 1;
    fs::write(first, bytes)?;
    Ok(())
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn has(text: &str, parts: &[&str]) -> bool {
    parts.iter().all(|p| text.contains(p))
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|w| w == needle)
}

fn failed(status: Status) -> anyhow::Error {
    anyhow::anyhow!("{:?}: {}", status.code(), status.message())
}
