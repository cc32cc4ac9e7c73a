//! The release path over mutual TLS: a fresh RS256 token attested, policy, a durable and signed leaf, 1 KiB re-sealed.
//!
//! Four connections of one node, the client on the same machine. The floors of the same run: the same messages to a server
//! that answers at once and empty, and one `fdatasync` after another.
#![expect(
    clippy::print_stdout,
    clippy::indexing_slicing,
    reason = "prints its figures; indexes by remainders"
)]

use std::{net::SocketAddr, sync::Arc};

use anyhow::{Context, Result, ensure};
use attache_proto::attache::v1::{self as pb, delivery_client::DeliveryClient};
use attache_tests::{
    Scene,
    bed::NODE,
    cluster::ClusterFolder,
    floor::{self, Floor},
    issuer::Issuer,
    measure::{self, Run, cpu, load},
    pod::Pod,
    wire,
};
use pb::deliver_response::Answer;

const CONNECTIONS: usize = 4;
/// Calls under way at one time, and how many are made.
const LEVELS: [(u64, u64); 3] = [(1, 10_000), (16, 20_000), (64, 20_000)];

/// A server that is measured.
struct Server {
    pid: u32,
    address: SocketAddr,
    /// Whether it releases, which is then required of each answer.
    releases: bool,
}

fn main() -> Result<()> {
    if floor::serve_if_asked()? {
        return Ok(());
    }
    let mut scene = Scene::start()?;
    let issuer = Issuer::new_rsa(&scene.bed.issuer.url, "rsa-1")?;
    scene.bed.cluster = ClusterFolder::create(&scene.bed.cluster.dir, &issuer)?;
    scene.bed.issuer = Arc::new(issuer);
    scene.put("payments/bench", &[("value", &"x".repeat(1024))])?;
    let grant = "grant add bench payments/bench --to local/shop/web/app";
    scene
        .bed
        .attache_ok(&grant.split(' ').collect::<Vec<_>>())?;
    let pod = Pod::new("shop", "bench-0", "web", NODE, "payments/bench");
    scene.bed.cluster.add_pod(&pod)?;

    println!(
        "release of 1 KiB, {CONNECTIONS} connections: {}",
        measure::machine()?
    );
    let disk = measure::fdatasync(&scene.bed.audit_dir(), 1000)?;
    println!("  {:<46}{}", "fdatasync of 1 KiB", disk.row());
    let floor = Floor::start(&scene.bed)?;
    let empty = Server {
        pid: floor.pid(),
        address: floor.address,
        releases: false,
    };
    let broker = scene.bed.broker.as_ref().context("the broker runs")?;
    let broker = Server {
        pid: broker.pid(),
        address: scene.bed.broker_addresses()?.0,
        releases: true,
    };
    for (in_flight, calls) in LEVELS {
        let seen = [scene.bed.token(&pod)?];
        let fresh = mint(&scene, &pod, calls)?;
        let floor = measured(&scene, &empty, &pod, &seen, (in_flight, calls), None)?;
        measured(
            &scene,
            &broker,
            &pod,
            &seen,
            (in_flight, calls),
            Some(floor),
        )?;
        measured(
            &scene,
            &broker,
            &pod,
            &fresh,
            (in_flight, calls),
            Some(floor),
        )?;
    }
    println!(
        "  afterwards: {}",
        scene.bed.attache_ok(&["audit", "verify"])?.trim()
    );
    Ok(())
}

/// Fresh tokens of one pod: an RSA signature each, so on both cores.
fn mint(scene: &Scene, pod: &Pod, count: u64) -> Result<Vec<String>> {
    let half = |count| {
        move || {
            (0..count)
                .map(|_| scene.bed.token(pod))
                .collect::<Result<Vec<_>>>()
        }
    };
    std::thread::scope(|scope| {
        let other = scope.spawn(half(count / 2));
        let mut tokens = half(count - count / 2)()?;
        tokens.extend(
            other
                .join()
                .map_err(|_| anyhow::anyhow!("minting failed"))??,
        );
        Ok(tokens)
    })
}

/// Measures and prints one line; answers the server's processor time a call in microseconds.
fn measured(
    scene: &Scene,
    server: &Server,
    pod: &Pod,
    tokens: &[String],
    (in_flight, calls): (u64, u64),
    floor_us: Option<f64>,
) -> Result<f64> {
    let connector = wire::connector(&wire::node_credentials(&scene.bed)?)?;
    let requests: Arc<Vec<_>> = Arc::new(
        tokens
            .iter()
            .map(|token| wire::deliver_request(pod, token))
            .collect(),
    );
    let releases = server.releases;
    let (run, cpu_us) = scene.runtime.block_on(async {
        let clients: Vec<_> = (0..CONNECTIONS)
            .map(|_| DeliveryClient::new(wire::channel(connector.clone(), server.address)))
            .collect();
        let call = move |number: u64| {
            let index = usize::try_from(number).unwrap_or(usize::MAX);
            let mut client = clients[index % CONNECTIONS].clone();
            let requests = Arc::clone(&requests);
            async move {
                let mut request = requests[index % requests.len()].clone();
                request.nonce = u128::from(number).to_be_bytes().to_vec();
                let answer = client.deliver(request).await?.into_inner().answer;
                let released =
                    matches!(&answer, Some(Answer::Released(it)) if it.values.len() == 1);
                ensure!(released == releases, "an answer of another kind");
                anyhow::Ok(())
            }
        };
        load(in_flight, in_flight * 8, call.clone()).await?;
        let before = cpu(server.pid)?;
        let run: Run = load(in_flight, calls, call).await?;
        let cpu_us = run.cpu_us(before, cpu(server.pid)?);
        anyhow::Ok((run, cpu_us))
    })?;
    let what = match (releases, tokens.len()) {
        (false, _) => "empty RPC",
        (true, 1) => "release, token seen before",
        (true, _) => "release, fresh token",
    };
    let ratio = floor_us.map_or(String::new(), |floor| {
        format!(" = {:.1} empty RPCs", cpu_us / floor)
    });
    println!(
        "  {in_flight:>2} in flight  {what:<32}{}   cpu {cpu_us:>5.0} us{ratio}",
        run.row()
    );
    Ok(cpu_us)
}
