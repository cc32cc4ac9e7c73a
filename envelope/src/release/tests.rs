use super::*;
use crate::SystemRandom;
use crate::testing::name;

const SECRET: [u8; 32] = [0x33; 32];
const NONCE: Nonce = Nonce::from_bytes([4; 16]);
const RELEASE: ReleaseId = ReleaseId::from_bytes([5; 16]);

fn ends() -> SessionBinding<'static> {
    SessionBinding {
        store: StoreId::from_bytes([1; 16]),
        broker_id: "spiffe://example.internal/broker/broker-0",
        boot: BootId::from_bytes([2; 16]),
        node_id: "spiffe://example.internal/node/local/7d9f3b52",
        plugin_key: SecretKey::new(&SECRET).public_key().unwrap(),
        session: SessionId::from_bytes([3; 16]),
    }
}

fn granted(path: &str, n: u8) -> GrantedValue {
    GrantedValue {
        path: name(path),
        secret: SecretId::from_bytes([n; 16]),
        version: SecretVersion::FIRST,
        field: name("password"),
        value: ValueId::from_bytes([n; 16]),
        ct_hash: CtHash::from_bytes([n; 32]),
    }
}

/// The names of a release, owned, so that tests can swap one at a time.
#[derive(Clone)]
struct Names {
    volume: VolumeId,
    cluster: ClusterName,
    namespace: Namespace,
    pod: PodUid,
    container: ContainerName,
    granted: Vec<GrantedValue>,
}

impl Names {
    fn new() -> Self {
        let pod = name("1f0c2b7e");
        Self {
            volume: VolumeId::of(&pod, &name("secrets")),
            cluster: name("local"),
            namespace: name("shop"),
            pod,
            container: name("app"),
            granted: vec![granted("payments/db", 6), granted("payments/api", 7)],
        }
    }

    fn binding(&self) -> ReleaseBinding<'_> {
        ReleaseBinding {
            store: StoreId::from_bytes([1; 16]),
            session: SessionId::from_bytes([3; 16]),
            nonce: NONCE,
            release: RELEASE,
            leaf_hash: [8; 32],
            volume: &self.volume,
            cluster: &self.cluster,
            namespace: &self.namespace,
            pod: &self.pod,
            container: &self.container,
            granted: &self.granted,
        }
    }
}

struct Sent {
    enc: Enc,
    sealed: Vec<u8>,
}

const DEKS: [[u8; 32]; 2] = [[0x41; 32], [0x42; 32]];

fn send(names: &Names) -> Sent {
    let (enc, session) = Session::sender(&SystemRandom, &ends()).unwrap();
    let key = session.release_key(NONCE, RELEASE).unwrap();
    let sealed = key
        .seal(&names.binding(), &DEKS.each_ref().map(Dek::new))
        .unwrap();
    Sent { enc, sealed }
}

fn receive(
    sent: &Sent,
    ends: &SessionBinding<'_>,
    binding: &ReleaseBinding<'_>,
) -> Result<[u8; 64], EnvelopeError> {
    let session = Session::receiver(SecretKey::new(&SECRET), &sent.enc, ends)?;
    let key = session.release_key(binding.nonce, binding.release)?;
    let mut out = [0; 64];
    key.open(binding, &sent.sealed, &mut out).map(|()| out)
}

#[test]
fn keys_arrive_in_their_order() {
    let names = Names::new();
    let opened = receive(&send(&names), &ends(), &names.binding()).unwrap();
    assert_eq!(opened, *DEKS.as_flattened());
    assert_eq!(
        deks(&opened).map(|dek| *dek.bytes()).collect::<Vec<_>>(),
        DEKS
    );
}

#[test]
fn another_end_of_the_session_is_refused() {
    let names = Names::new();
    let sent = send(&names);
    for swapped in [
        SessionBinding {
            store: StoreId::from_bytes([9; 16]),
            ..ends()
        },
        SessionBinding {
            broker_id: "spiffe://example.internal/broker/broker-1",
            ..ends()
        },
        SessionBinding {
            boot: BootId::from_bytes([9; 16]),
            ..ends()
        },
        SessionBinding {
            node_id: "spiffe://example.internal/node/local/7d9f3b53",
            ..ends()
        },
        SessionBinding {
            session: SessionId::from_bytes([9; 16]),
            ..ends()
        },
    ] {
        let result = receive(&sent, &swapped, &names.binding());
        assert_eq!(result, Err(EnvelopeError::Refused), "{swapped:?}");
    }
}

#[test]
fn a_session_for_another_plugin_key_is_told() {
    let names = Names::new();
    let other = SecretKey::new(&[0x34; 32]).public_key().unwrap();
    let swapped = SessionBinding {
        plugin_key: other,
        ..ends()
    };
    assert!(matches!(
        receive(&send(&names), &swapped, &names.binding()),
        Err(EnvelopeError::Rule(_))
    ));
}

#[test]
fn another_field_of_the_release_is_refused() {
    let names = Names::new();
    let sent = send(&names);
    let right = names.binding();
    for swapped in [
        ReleaseBinding {
            store: StoreId::from_bytes([9; 16]),
            ..right
        },
        ReleaseBinding {
            session: SessionId::from_bytes([9; 16]),
            ..right
        },
        ReleaseBinding {
            nonce: Nonce::from_bytes([9; 16]),
            ..right
        },
        ReleaseBinding {
            release: ReleaseId::from_bytes([9; 16]),
            ..right
        },
        ReleaseBinding {
            leaf_hash: [9; 32],
            ..right
        },
    ] {
        let result = receive(&sent, &ends(), &swapped);
        assert_eq!(result, Err(EnvelopeError::Refused), "{swapped:?}");
    }
    let changes: [fn(&mut Names); 13] = [
        |names| names.volume = VolumeId::of(&names.pod, &name("other")),
        |names| names.cluster = name("edge"),
        |names| names.namespace = name("shop2"),
        |names| names.pod = name("1f0c2b7f"),
        |names| names.container = name("sidecar"),
        |names| names.granted.reverse(),
        |names| names.granted[0].path = name("billing/db"),
        |names| names.granted[0].path = name("payments/dc"),
        |names| names.granted[0].secret = SecretId::from_bytes([9; 16]),
        |names| names.granted[0].version = SecretVersion::new(2).unwrap(),
        |names| names.granted[0].field = name("username"),
        |names| names.granted[0].value = ValueId::from_bytes([9; 16]),
        |names| names.granted[0].ct_hash = CtHash::from_bytes([9; 32]),
    ];
    for change in changes {
        let mut swapped = names.clone();
        change(&mut swapped);
        let result = receive(&sent, &ends(), &swapped.binding());
        assert_eq!(result, Err(EnvelopeError::Refused));
    }
}

/// The nonce and the release are bound twice: by the key and by the associated data.
#[test]
fn a_key_of_another_attempt_is_refused() {
    let names = Names::new();
    let (_, session) = Session::sender(&SystemRandom, &ends()).unwrap();
    let sealed = session
        .release_key(NONCE, RELEASE)
        .unwrap()
        .seal(&names.binding(), &DEKS.each_ref().map(Dek::new))
        .unwrap();
    for (nonce, release) in [
        (Nonce::from_bytes([9; 16]), RELEASE),
        (NONCE, ReleaseId::from_bytes([9; 16])),
    ] {
        let key = session.release_key(nonce, release).unwrap();
        let result = key.open(&names.binding(), &sealed, &mut [0; 64]);
        assert_eq!(result, Err(EnvelopeError::Refused));
    }
}

#[test]
fn a_count_of_keys_that_does_not_fit_is_refused() {
    let names = Names::new();
    let (_, session) = Session::sender(&SystemRandom, &ends()).unwrap();
    let key = || session.release_key(NONCE, RELEASE).unwrap();
    let one = [Dek::new(&DEKS[0])];
    assert!(matches!(
        key().seal(&names.binding(), &one),
        Err(EnvelopeError::Rule(_))
    ));
    let sent = send(&names);
    let short = key().open(&names.binding(), &sent.sealed, &mut [0; 32]);
    assert!(matches!(
        short,
        Err(EnvelopeError::Buffer {
            needed_bytes: 64,
            ..
        })
    ));
    let cut = key().open(&names.binding(), &sent.sealed[1..], &mut [0; 64]);
    assert_eq!(cut, Err(EnvelopeError::Refused));
}

#[test]
fn a_plugin_key_that_gives_no_secret_is_refused() {
    for zeros in [[0; 32], {
        let mut one = [0; 32];
        one[0] = 1;
        one
    }] {
        let swapped = SessionBinding {
            plugin_key: PublicKey::from_bytes(zeros),
            ..ends()
        };
        let setup = Session::sender(&SystemRandom, &swapped);
        assert_eq!(setup.err(), Some(EnvelopeError::PublicKey));
    }
}
