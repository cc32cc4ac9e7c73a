//! The bounds of the accept loop, and the ends of a connection: the kill switch, its age, its peer's certificate.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use attache_mtls::accept::{AcceptLimits, AcceptStats};
use attache_mtls::key::LeafKey;
use attache_mtls::stream::{HandshakeError, MtlsStream};
use attache_mtls::tls::{Credentials, Material};
use jiff::Timestamp;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::fixture::{LONG, Listening, Pki, broker_id, node, operator};

#[tokio::test]
async fn a_silent_peer_keeps_nobody_out() {
    let pki = Pki::new(1);
    let limits = AcceptLimits {
        max_handshakes: 1,
        handshake_timeout: LONG,
        ..AcceptLimits::default()
    };
    let mut listening = Listening::start(pki.server(), limits).await;
    let mut silent = TcpStream::connect(listening.address).await.unwrap();
    let (_server, _client) = listening.pair(&pki.client()).await;
    assert_eq!(
        silent.read(&mut [0; 1]).await.unwrap(),
        0,
        "the silent peer gave way"
    );
    let stats = listening.acceptor.stats();
    assert_eq!(
        stats,
        AcceptStats {
            accepted: 1,
            evicted: 1,
            open: 1,
            ..AcceptStats::default()
        }
    );
}

/// The address with most unfinished handshakes gives way, so that a crowd from one shuts out only itself.
#[tokio::test]
async fn a_crowd_of_one_address_gives_way_to_itself() {
    let pki = Pki::new(1);
    let limits = AcceptLimits {
        max_handshakes: 3,
        handshake_timeout: LONG,
        ..AcceptLimits::default()
    };
    let listening = Listening::start(pki.server(), limits).await;
    let mut honest = from("127.0.0.2", listening.address).await;
    let mut crowd = Vec::new();
    for _ in 0..6 {
        crowd.push(from("127.0.0.3", listening.address).await);
    }
    for early in crowd.iter_mut().take(4) {
        assert_eq!(early.read(&mut [0; 1]).await.unwrap(), 0);
    }
    assert_eq!(listening.acceptor.stats().evicted, 4);
    // The honest one may still say hello, and is answered: by an alert, since this is none.
    honest.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    honest.read_to_end(&mut answer).await.unwrap();
    assert!(!answer.is_empty(), "it was hung up on without a word");
}

#[tokio::test]
async fn one_identity_leaves_room_for_others() {
    let pki = Pki::new(1);
    let limits = AcceptLimits {
        max_connections_per_peer: 2,
        ..AcceptLimits::default()
    };
    let mut listening = Listening::start(pki.server(), limits).await;
    let config = |id| pki.credentials(&id).client_config(broker_id("b1")).unwrap();
    let (nodes, operators) = (config(node()), config(operator()));
    let first = listening.pair(&nodes).await;
    let _second = listening.pair(&nodes).await;
    // The client's own handshake ends before the server counts: the refusal is a hang-up.
    if let Ok(mut third) = listening.connect(&nodes).await {
        assert!(hung_up(&mut third).await);
    }
    assert_eq!(listening.acceptor.stats().over_cap, 1);
    let _other = listening.pair(&operators).await;
    drop(first);
    listening.pair(&nodes).await;
}

#[tokio::test]
async fn a_peer_that_sends_half_a_hello_is_cut_off_too() {
    let pki = Pki::new(1);
    let limits = AcceptLimits {
        handshake_timeout: Duration::from_millis(200),
        ..AcceptLimits::default()
    };
    let listening = Listening::start(pki.server(), limits).await;
    let mut slow = TcpStream::connect(listening.address).await.unwrap();
    slow.write_all(&[0x16, 3, 1, 2, 0, 1]).await.unwrap();
    assert_eq!(slow.read(&mut [0; 1]).await.unwrap(), 0);
    assert_eq!(listening.acceptor.stats().timed_out, 1);
    let mut garbage = TcpStream::connect(listening.address).await.unwrap();
    garbage.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    garbage.read_to_end(&mut answer).await.unwrap();
    assert_eq!(listening.acceptor.stats().failed, 1);
}

#[tokio::test]
async fn past_the_cap_a_connection_is_closed_at_once_and_a_dropped_one_makes_room() {
    let pki = Pki::new(1);
    let limits = AcceptLimits {
        max_connections: 2,
        ..AcceptLimits::default()
    };
    let mut listening = Listening::start(pki.server(), limits).await;
    let config = pki.client();
    let first = listening.pair(&config).await;
    let _second = listening.pair(&config).await;
    let refusal = listening.connect(&config).await.unwrap_err();
    assert!(matches!(refusal, HandshakeError::Io(_)), "{refusal:?}");
    let stats = listening.acceptor.stats();
    assert_eq!((stats.over_cap, stats.accepted, stats.open), (1, 2, 2));
    drop(first);
    listening.pair(&config).await;
}

#[tokio::test]
async fn where_anybody_may_connect_the_oldest_of_the_busiest_gives_way_at_the_cap() {
    let pki = Pki::new(1);
    let limits = AcceptLimits {
        max_connections: 3,
        oldest_gives_way: true,
        ..AcceptLimits::default()
    };
    let mut listening = Listening::start(pki.server(), limits).await;
    let config = |id| pki.credentials(&id).client_config(broker_id("b1")).unwrap();
    let (nodes, operators) = (config(node()), config(operator()));
    let (_held, mut only) = listening.pair(&operators).await;
    let (oldest, mut gave_way) = listening.pair(&nodes).await;
    let (_stands, mut second) = listening.pair(&nodes).await;
    // Whoever holds a stream drops it once its reading ends.
    let holder = tokio::spawn(async move {
        let mut oldest = oldest;
        oldest.read_u8().await.map_err(|error| error.kind())
    });
    let _newest = listening.pair(&nodes).await;
    holder.await.unwrap().unwrap_err();
    assert!(hung_up(&mut gave_way).await);
    let stats = listening.acceptor.stats();
    assert_eq!((stats.over_cap, stats.evicted, stats.open), (0, 1, 3));
    for standing in [&mut only, &mut second] {
        let waits = tokio::time::timeout(Duration::from_millis(50), standing.read_u8()).await;
        assert!(waits.is_err(), "another than the oldest gave way");
    }
}

#[tokio::test]
async fn the_kill_switch_ends_a_waiting_read_and_every_later_operation() {
    let pki = Pki::new(1);
    let mut listening = Listening::start(pki.server(), AcceptLimits::default()).await;
    let (mut server, mut client) = listening.pair(&pki.client()).await;
    let kill = server.connect_info().kill;
    let waiting = tokio::spawn(async move {
        let read = server.read_u8().await.unwrap_err().kind();
        let write = server.write_all(b"late").await.unwrap_err().kind();
        let flush = server.flush().await.unwrap_err().kind();
        (read, write, flush)
    });
    tokio::task::yield_now().await;
    assert!(!kill.is_closed());
    kill.close();
    assert_eq!(
        waiting.await.unwrap(),
        (
            ErrorKind::ConnectionAborted,
            ErrorKind::ConnectionAborted,
            ErrorKind::ConnectionAborted
        )
    );
    kill.closed().await;
    assert!(hung_up(&mut client).await);
    assert_eq!(listening.acceptor.stats().open, 0);
}

#[tokio::test]
async fn the_kill_switch_ends_a_write_that_waits_in_another_task() {
    let pki = Pki::new(1);
    let mut listening = Listening::start(pki.server(), AcceptLimits::default()).await;
    let (server, _client) = listening.pair(&pki.client()).await;
    let kill = server.connect_info().kill;
    let (mut reader, mut writer) = tokio::io::split(server);
    let reading = tokio::spawn(async move { reader.read_u8().await.unwrap_err().kind() });
    // The client reads nothing, so that the socket's buffers fill and the write waits.
    let writing = tokio::spawn(async move {
        loop {
            if let Err(error) = writer.write_all(&[0; 65536]).await {
                return error.kind();
            }
        }
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    kill.close();
    let both = async { (reading.await.unwrap(), writing.await.unwrap()) };
    let ended = tokio::time::timeout(LONG, both)
        .await
        .expect("both ends were woken");
    assert_eq!(
        ended,
        (ErrorKind::ConnectionAborted, ErrorKind::ConnectionAborted)
    );
}

#[tokio::test]
async fn a_ban_closes_that_peers_connections_and_no_others() {
    let pki = Pki::new(1);
    let mut listening = Listening::start(pki.server(), AcceptLimits::default()).await;
    let config = |id| pki.credentials(&id).client_config(broker_id("b1")).unwrap();
    let (nodes, operators) = (config(node()), config(operator()));
    let (mut one, _client_one) = listening.pair(&nodes).await;
    let (mut two, _client_two) = listening.pair(&nodes).await;
    let (mut kept, mut client_kept) = listening.pair(&operators).await;
    let banned = |info: &attache_mtls::stream::ConnectionInfo| {
        info.peer
            .as_deref()
            .is_some_and(|peer| peer.id() == &node())
    };
    assert_eq!(listening.acceptor.close_where(banned), 2);
    assert_eq!(
        listening.acceptor.close_where(banned),
        0,
        "they are closed already"
    );
    assert_eq!(
        one.read_u8().await.unwrap_err().kind(),
        ErrorKind::ConnectionAborted
    );
    assert_eq!(
        two.read_u8().await.unwrap_err().kind(),
        ErrorKind::ConnectionAborted
    );
    client_kept.write_all(b"x").await.unwrap();
    client_kept.flush().await.unwrap();
    assert_eq!(kept.read_u8().await.unwrap(), b'x');
}

#[tokio::test]
async fn a_connection_ends_at_its_greatest_age() {
    let pki = Pki::new(1);
    let age = Duration::from_millis(300);
    let limits = AcceptLimits {
        max_connection_age: age,
        ..AcceptLimits::default()
    };
    let mut listening = Listening::start(pki.server(), limits).await;
    let (mut server, mut client) = listening.pair(&pki.client()).await;
    let begin = Instant::now();
    let ended = tokio::time::timeout(LONG, server.read_u8()).await.unwrap();
    assert_eq!(ended.unwrap_err().kind(), ErrorKind::ConnectionAborted);
    assert!(begin.elapsed() >= age / 2);
    assert!(server.connect_info().kill.is_closed());
    drop(server);
    assert!(hung_up(&mut client).await);
}

#[tokio::test]
async fn a_connection_ends_with_the_certificate_that_opened_it() {
    let pki = Pki::new(1);
    let key = LeafKey::generate().unwrap();
    let short = pki.issue_at(&node(), &key, Timestamp::now(), Duration::from_secs(2));
    let material = Material::new(short.chain(), &key, pki.bundle()).unwrap();
    let config = Credentials::new(material)
        .client_config(broker_id("b1"))
        .unwrap();
    let mut listening = Listening::start(pki.server(), AcceptLimits::default()).await;
    let (mut server, _client) = listening.pair(&config).await;
    let ended = tokio::time::timeout(LONG, server.read_u8()).await.unwrap();
    assert_eq!(ended.unwrap_err().kind(), ErrorKind::ConnectionAborted);
    assert!(Timestamp::now() >= short.identity().not_after());
}

#[tokio::test]
async fn the_loop_ends_when_nobody_takes_its_streams() {
    let pki = Pki::new(1);
    let mut listening = Listening::start(pki.server(), AcceptLimits::default()).await;
    listening.pair(&pki.client()).await;
    drop(listening.streams);
    let until = Instant::now() + LONG;
    while TcpStream::connect(listening.address).await.is_ok() {
        assert!(Instant::now() < until, "the listener is still open");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_client_gives_up_on_a_server_that_says_nothing() {
    let pki = Pki::new(1);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let limit = Duration::from_millis(200);
    let connector = attache_mtls::connect::Connector::new(pki.client(), limit);
    let result = connector.connect(listener.local_addr().unwrap()).await;
    assert!(matches!(result, Err(HandshakeError::Timeout { limit: l }) if l == limit));
}

/// A connection from another address of this machine.
async fn from(address: &str, to: std::net::SocketAddr) -> TcpStream {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket
        .bind(std::net::SocketAddr::new(address.parse().unwrap(), 0))
        .unwrap();
    socket.connect(to).await.unwrap()
}

/// Whether the other side is gone: an end or an error, and no byte.
async fn hung_up(stream: &mut MtlsStream) -> bool {
    let read = tokio::time::timeout(LONG, stream.read(&mut [0; 1]))
        .await
        .expect("nothing happened");
    !matches!(read, Ok(1))
}
