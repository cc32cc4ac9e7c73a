//! Puts and releases, data keys on their way; and what a node signs that renews late.

use attache_envelope::EnvelopeError;
use attache_envelope::channel::Channel;
use attache_envelope::id::{Nonce, ReleaseId};
use attache_envelope::key::{Dek, SecretKey};
use attache_envelope::late_renewal::LateRenewal;
use attache_envelope::name::{Keyspace, SecretName, SecretPath, SecretVersion};
use attache_envelope::put::{CommitPut, PutField, PutParts};
use attache_envelope::release::{GrantedValue, ReleaseBinding, Session, SessionBinding};
use attache_envelope::slot::{SlotRequest, SlotVerb};
use attache_envelope::unseal::UnsealChannel;
use attache_envelope::value::CtHash;
use attache_envelope::x25519::{Enc, PublicKey};

use super::case::{Expected, Fields, run};
use super::replay::Replay;

fn path(fields: &Fields) -> SecretPath {
    SecretPath {
        keyspace: fields.parse::<Keyspace>("keyspace"),
        name: fields.parse::<SecretName>("name"),
    }
}

fn enc(fields: &Fields) -> Enc {
    Enc::from_bytes(fields.array("enc"))
}

/// The keys of a case in one buffer, as they are opened.
fn joined(deks: &[[u8; 32]]) -> Vec<u8> {
    deks.concat()
}

fn put_of(given: &Fields) -> Result<CommitPut, EnvelopeError> {
    let fields = given.list("fields");
    let fields = fields.iter().map(|field| PutField {
        field: field.parse("field"),
        value: field.id("value"),
        ct_hash: CtHash::from_bytes(field.array("ct_hash")),
    });
    let carried = given.texts("carried");
    CommitPut::new(PutParts {
        store: given.id("store"),
        request: given.id("request_id"),
        path: path(given),
        secret: given.id("secret"),
        expected_head_version: given.u64("expected_head_version"),
        flags: given.u32("flags"),
        note: given.text("note").to_owned(),
        fields: fields.collect(),
        carried: carried.iter().map(|name| name.parse().unwrap()).collect(),
    })
}

#[test]
fn put() {
    run("put", true, |given, expected| {
        let channel = Channel {
            store: given.id("store"),
            broker_id: given.text("broker_id"),
            boot: given.id("boot"),
            key_id: given.id("key_id"),
            operator_id: given.text("operator_id"),
        };
        let sk = given.has("sk_r").then(|| given.array::<32>("sk_r"));
        match expected {
            Expected::Out(out) => {
                let put = put_of(given).unwrap();
                assert_eq!(channel.put_info(), out.bytes("info"));
                assert_eq!(put.digest_input(), out.bytes("digest_input"));
                assert_eq!(put.digest().as_bytes().as_slice(), out.bytes("digest"));
                check_put(given, &out, &put, &channel, &sk.unwrap());
            }
            Expected::Refused => {
                let Ok(put) = put_of(given) else { return };
                let mut opened = vec![0; 32 * put.fields().len()];
                let (sk, sealed) = (sk.unwrap(), given.bytes("sealed"));
                put.open_keys(
                    SecretKey::new(&sk),
                    &enc(given),
                    &channel,
                    &sealed,
                    &mut opened,
                )
                .unwrap_err();
                assert_eq!(opened, vec![0; opened.len()]);
            }
        }
    });
}

fn check_put(given: &Fields, out: &Fields, put: &CommitPut, channel: &Channel<'_>, sk: &[u8; 32]) {
    // The keys in the order that the put gives its fields.
    let sent = given.list("fields");
    let of_field = |field: &PutField| {
        let sent = sent
            .iter()
            .find(|sent| sent.text("field") == field.field.as_str());
        sent.unwrap().array::<32>("dek")
    };
    let deks: Vec<_> = put.fields().iter().map(of_field).collect();
    let expected: Vec<_> = out
        .texts("deks")
        .iter()
        .map(|dek| hex::decode(dek).unwrap())
        .collect();
    assert_eq!(joined(&deks), expected.concat());
    let secret = SecretKey::new(sk);
    let pk = secret.public_key().unwrap();
    assert_eq!(pk.as_bytes().as_slice(), out.bytes("pk_r"));
    let random = Replay::new(&given.bytes("ikm_e"));
    let borrowed: Vec<_> = deks.iter().map(Dek::new).collect();
    let (enc, sealed) = put.seal_keys(&random, &pk, channel, &borrowed).unwrap();
    assert_eq!(enc.as_bytes().as_slice(), out.bytes("enc"));
    assert_eq!(sealed, out.bytes("sealed"));
    let mut opened = vec![0; 32 * deks.len()];
    put.open_keys(secret, &enc, channel, &sealed, &mut opened)
        .unwrap();
    assert_eq!(opened, joined(&deks));
}

fn granted(given: &Fields) -> Vec<GrantedValue> {
    let list = given.list("granted");
    list.iter()
        .map(|value| GrantedValue {
            path: path(value),
            secret: value.id("secret"),
            version: SecretVersion::new(value.u64("version")).unwrap(),
            field: value.parse("field"),
            value: value.id("value"),
            ct_hash: CtHash::from_bytes(value.array("ct_hash")),
        })
        .collect()
}

#[test]
fn release() {
    run("release", true, |given, expected| {
        let sk = given.array("sk");
        let secret = SecretKey::new(&sk);
        let granted = granted(given);
        let (volume, cluster, namespace) = (
            given.parse("volume"),
            given.parse("cluster"),
            given.parse("namespace"),
        );
        let (pod, container) = (given.parse("pod_uid"), given.parse("container"));
        let ends = SessionBinding {
            store: given.id("store"),
            broker_id: given.text("broker_id"),
            boot: given.id("boot"),
            node_id: given.text("node_id"),
            plugin_key: secret.public_key().unwrap(),
            session: given.id("session"),
        };
        let binding = ReleaseBinding {
            store: given.id("store"),
            session: given.id("session"),
            nonce: given.id("nonce"),
            release: given.id("release"),
            leaf_hash: given.array("leaf_hash"),
            volume: &volume,
            cluster: &cluster,
            namespace: &namespace,
            pod: &pod,
            container: &container,
            granted: &granted,
        };
        match expected {
            Expected::Out(out) => check_release(given, &out, secret, &ends, &binding),
            Expected::Refused => {
                let mut opened = vec![0; 32 * granted.len()];
                Session::receiver(secret, &enc(given), &ends)
                    .and_then(|session| session.release_key(binding.nonce, binding.release))
                    .and_then(|key| key.open(&binding, &given.bytes("sealed"), &mut opened))
                    .unwrap_err();
                assert_eq!(opened, vec![0; opened.len()]);
            }
        }
    });
}

fn check_release(
    given: &Fields,
    out: &Fields,
    secret: SecretKey<'_>,
    ends: &SessionBinding<'_>,
    binding: &ReleaseBinding<'_>,
) {
    assert_eq!(ends.plugin_key.as_bytes().as_slice(), out.bytes("pk"));
    assert_eq!(ends.info(), out.bytes("info"));
    assert_eq!(binding.aad(), out.bytes("aad"));
    let deks: Vec<[u8; 32]> = given
        .texts("deks")
        .iter()
        .map(|dek| hex::decode(dek).unwrap().try_into().unwrap())
        .collect();
    let (nonce, release): (Nonce, ReleaseId) = (given.id("nonce"), given.id("release"));
    let random = Replay::new(&given.bytes("ikm_e"));
    let (enc, sender) = Session::sender(&random, ends).unwrap();
    assert_eq!(enc.as_bytes().as_slice(), out.bytes("enc"));
    let borrowed: Vec<_> = deks.iter().map(Dek::new).collect();
    let key = sender.release_key(nonce, release).unwrap();
    let sealed = key.seal(binding, &borrowed).unwrap();
    assert_eq!(sealed, out.bytes("sealed"));
    let receiver = Session::receiver(secret, &enc, ends).unwrap();
    let mut opened = vec![0; 32 * deks.len()];
    let key = receiver.release_key(nonce, release).unwrap();
    key.open(binding, &sealed, &mut opened).unwrap();
    assert_eq!(opened, joined(&deks));
}

#[test]
fn release_setup() {
    run("release-setup", true, |given, expected| {
        let random = Replay::new(&given.bytes("ikm_e"));
        let pk = PublicKey::try_from(given.bytes("pk").as_slice());
        let setup = |plugin_key| {
            let ends = SessionBinding {
                store: [1; 16].into(),
                broker_id: "spiffe://example.internal/broker/broker-0",
                boot: [2; 16].into(),
                node_id: "spiffe://example.internal/node/local/n",
                plugin_key,
                session: [3; 16].into(),
            };
            Session::sender(&random, &ends).map(|(enc, _)| enc)
        };
        let result = pk.and_then(setup);
        match expected {
            // `enc` rests on the ephemeral key alone, so it holds for our info too.
            Expected::Out(out) => {
                assert_eq!(result.unwrap().as_bytes().as_slice(), out.bytes("enc"));
            }
            Expected::Refused => assert_eq!(result.err(), Some(EnvelopeError::PublicKey)),
        }
        // All zeros is refused by the setup as well, for a key that came another way than off the wire.
        let zeros = setup(PublicKey::from_bytes([0; 32]));
        assert_eq!(zeros.err(), Some(EnvelopeError::PublicKey));
    });
}

#[test]
fn late_renewal() {
    run("late-renewal", false, |given, expected| {
        let Expected::Out(out) = expected else {
            panic!("a transcript refuses nothing")
        };
        let (certificate, request) = (given.bytes("certificate"), given.bytes("request"));
        let asked = LateRenewal {
            broker: given.text("broker_id"),
            certificate: &certificate,
            request: &request,
            version: given.text("version"),
            at_ms: given.u64("at"),
        };
        assert_eq!(asked.transcript(), out.bytes("transcript"));
    });
}

#[test]
fn slot_secret() {
    run("slot-secret", true, |given, expected| {
        let channel = Channel {
            store: given.id("store"),
            broker_id: given.text("broker_id"),
            boot: given.id("boot"),
            key_id: given.id("key_id"),
            operator_id: given.text("operator_id"),
        };
        let request = SlotRequest {
            verb: match given.text("verb") {
                "add" => SlotVerb::Add,
                _ => SlotVerb::Verify,
            },
            store: given.id("store"),
            request: given.id("request_id"),
            slot: given.id("slot"),
            kind: given.parse("kind"),
            name: given.text("name"),
        };
        let sk = given.array::<32>("sk_r");
        let sk = SecretKey::new(&sk);
        let mut opened = [0; 32];
        match expected {
            Expected::Out(out) => {
                let pk = sk.public_key().unwrap();
                assert_eq!(pk.as_bytes().as_slice(), out.bytes("pk_r"));
                assert_eq!(channel.slot_info(), out.bytes("info"));
                assert_eq!(request.digest().as_slice(), out.bytes("digest"));
                let (random, secret) = (Replay::new(&given.bytes("ikm_e")), given.bytes("secret"));
                let sealed = request.seal_secret(&random, &pk, &channel, &secret);
                let (enc, sealed) = sealed.unwrap();
                assert_eq!(enc.as_bytes().as_slice(), out.bytes("enc"));
                assert_eq!(sealed, out.bytes("sealed"));
                let read = request.open_secret(sk, &enc, &channel, &sealed, &mut opened);
                assert_eq!((read, opened.as_slice()), (Ok(()), secret.as_slice()));
                let short = &mut [0; 31];
                let read = request.open_secret(sk, &enc, &channel, &sealed, short);
                assert_eq!(read, Err(EnvelopeError::Refused));
            }
            Expected::Refused => {
                let (enc, sealed) = (enc(given), given.bytes("sealed"));
                let read = request.open_secret(sk, &enc, &channel, &sealed, &mut opened);
                read.unwrap_err();
                assert_eq!(opened, [0; 32]);
            }
        }
    });
}

#[test]
fn unseal() {
    run("unseal", true, |given, expected| {
        let sk = given.array::<32>("sk_r");
        let sk = SecretKey::new(&sk);
        let channel = UnsealChannel {
            store: given.id("store"),
            broker_id: given.text("broker_id"),
            boot: given.id("boot"),
            boot_key: sk.public_key().unwrap(),
            slot: given.id("slot"),
        };
        let mut opened = [0; 32];
        match expected {
            Expected::Out(out) => {
                assert_eq!(channel.boot_key.as_bytes().as_slice(), out.bytes("pk_r"));
                assert_eq!(channel.info(), out.bytes("info"));
                let (random, secret) = (Replay::new(&given.bytes("ikm_e")), given.bytes("secret"));
                let (enc, sealed) = channel.seal(&random, &secret).unwrap();
                assert_eq!(enc.as_bytes().as_slice(), out.bytes("enc"));
                assert_eq!(sealed, out.bytes("sealed"));
                let mut opened = vec![0; secret.len()];
                let read = channel.open(sk, &enc, &sealed, &mut opened);
                assert_eq!((read, opened), (Ok(()), secret));
            }
            Expected::Refused => {
                let (enc, sealed) = (enc(given), given.bytes("sealed"));
                let read = channel.open(sk, &enc, &sealed, &mut opened);
                read.unwrap_err();
                assert_eq!(opened, [0; 32]);
            }
        }
    });
}
