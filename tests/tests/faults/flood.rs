//! D2: ten thousand connections that never finish their handshake, and handshakes without a certificate, on each
//! listener: the broker's memory stays bounded, and whoever is known gets in meanwhile.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use attache_mtls::{key::LeafKey, tls::spki_pinned_client_config};
use attache_proto::attache::v1 as pb;
use attache_tests::{Bed, Scene, bed::NODE, measure::resident_kib, pod::Pod, wire};
use pb::enrollment_client::EnrollmentClient;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    task::JoinHandle,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::Code;

/// At one time, of one listener.
const CONNECTIONS: usize = 10_000;
/// They come from as many addresses as a small network has.
const ADDRESSES: usize = 200;
/// How many are opened at one time.
const AT_ONCE: usize = 64;
/// Whoever is known gets in by then.
const ATTEMPTS: usize = 20;
/// What the broker may grow by: its 4,352 slots, were they all in a handshake, would take more than twice that.
const GROWTH_KIB: u64 = 48 * 1024;

/// A connection from one of the flood's addresses.
async fn connect(number: usize, to: SocketAddr) -> std::io::Result<TcpStream> {
    let third = u8::try_from(number % ADDRESSES).unwrap();
    let socket = TcpSocket::new_v4()?;
    socket.bind((Ipv4Addr::new(127, 66, third, 1), 0).into())?;
    socket.connect(to).await
}

/// Opens all of them, each with half a hello or nothing, and holds them.
fn half_open(scene: &Scene, to: SocketAddr) -> JoinHandle<Vec<TcpStream>> {
    scene.runtime.spawn(async move {
        let opener = |first: usize| async move {
            let mut held = Vec::new();
            for number in (first..CONNECTIONS).step_by(AT_ONCE) {
                let mut stream = connect(number, to).await.unwrap();
                if number % 2 == 0 {
                    // It may have given way already.
                    let _gone = stream.write_all(&[0x16, 3, 1, 2, 0, 1]).await;
                }
                held.push(stream);
            }
            held
        };
        let openers: Vec<_> = (0..AT_ONCE).map(|i| tokio::spawn(opener(i))).collect();
        let mut held = Vec::new();
        for opener in openers {
            held.extend(opener.await.unwrap());
        }
        held
    })
}

/// A joining machine's call is answered, by a refusal in words since its token is made up; answers the attempts that it
/// took. Its handshake may give way to newer ones, as anybody's: a machine that joins tries again.
fn joining_is_answered(scene: &Scene, token: &str) -> usize {
    let csr = LeafKey::generate().unwrap().certificate_request().unwrap();
    scene.runtime.block_on(async {
        for attempt in 1..=ATTEMPTS {
            let channel = wire::joining(&scene.bed, token).unwrap();
            let request = pb::JoinNodeRequest {
                token: token.to_owned(),
                csr: csr.clone(),
                ..Default::default()
            };
            let answer = EnrollmentClient::new(channel).join_node(request).await;
            if answer.unwrap_err().code() == Code::Unauthenticated {
                return attempt;
            }
        }
        panic!("no answer in {ATTEMPTS} attempts");
    })
}

/// An operator's new connection is answered; answers the attempts that it took.
fn operator_is_answered(scene: &Scene) -> usize {
    let answered = |_: &usize| scene.bed.attache(&["status"]).unwrap().status.success();
    (1..=ATTEMPTS).find(answered).unwrap()
}

/// A token of this broker that does not work any more: its pin is right.
fn used_token(bed: &Bed) -> String {
    let words = ["node", "join-token", "--cluster", "local", "--node", NODE.0];
    let token = bed.attache_ok(&words).unwrap();
    let token = token.trim();
    let (head, tail) = token.split_at(token.len() - 60);
    // Another secret part, the same pin.
    let flipped = if head.ends_with('A') { 'B' } else { 'A' };
    format!("{}{flipped}{tail}", &head[..head.len() - 1])
}

#[test]
fn ten_thousand_half_open_connections_take_little_and_keep_nobody_out() {
    let scene = Scene::start().unwrap();
    let pid = scene.bed.broker.as_ref().unwrap().pid();
    let token = used_token(&scene.bed);
    let (grpc, enroll) = scene.bed.broker_addresses().unwrap();
    let mut published = 0;
    let mut attempts = 1;
    let mut served = || {
        attempts = attempts.max(joining_is_answered(&scene, &token));
        attempts = attempts.max(operator_is_answered(&scene));
        let pod = Pod::new(
            "shop",
            &format!("web-{published}"),
            "web",
            NODE,
            "payments/db",
        );
        scene.publish(&pod).unwrap();
        published += 1;
        resident_kib(pid).unwrap()
    };
    let before = served();
    for listener in [grpc, enroll] {
        let flood = half_open(&scene, listener);
        let mut most = before;
        while !flood.is_finished() {
            most = most.max(served());
        }
        let held = scene.runtime.block_on(flood).unwrap();
        assert_eq!(held.len(), CONNECTIONS);
        most = most.max(served());
        assert!(most - before < GROWTH_KIB, "{before} KiB, then {most} KiB");
        println!("{listener}: {} KiB more at the most", most - before);
    }
    println!("{published} rounds, {attempts} attempts at the most");
}

#[test]
fn handshakes_without_a_certificate_keep_nobody_out() {
    let scene = Scene::start().unwrap();
    let token = used_token(&scene.bed);
    let (grpc, enroll) = scene.bed.broker_addresses().unwrap();
    let tls = TlsConnector::from(spki_pinned_client_config(wire::pin(&token).unwrap()).unwrap());
    let handshake = |number: usize, to| {
        let tls = tls.clone();
        async move {
            let name = "broker".try_into().unwrap();
            tls.connect(name, connect(number, to).await?).await
        }
    };
    let handshake = Arc::new(handshake);
    // More than the enrollment listener has slots, each address fewer than it may have: all are held.
    let held: Vec<TlsStream<TcpStream>> = scene.runtime.block_on(async {
        let mut held = Vec::new();
        for number in 0..600 {
            held.push(handshake(number, enroll).await.unwrap());
        }
        held
    });
    assert_eq!(joining_is_answered(&scene, &token), 1);
    // Who shows no certificate where one is asked for is sent away at once, however often.
    scene.runtime.block_on(async {
        for number in 0..600 {
            let Ok(mut stream) = handshake(number, grpc).await else {
                continue;
            };
            let mut answer = [0; 1];
            let ended = tokio::time::timeout(Duration::from_secs(5), stream.read(&mut answer));
            assert!(!matches!(ended.await.unwrap(), Ok(1..)), "it was let in");
        }
    });
    assert_eq!(operator_is_answered(&scene), 1);
    drop(held);
}
