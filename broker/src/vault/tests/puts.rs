//! Puts: what is accepted, what is refused and why, and that a refused one changes nothing.

use attache_envelope::EnvelopeError;
use attache_envelope::id::KeyId;

use super::*;
use crate::store::{ApplyError, Table};

#[tokio::test]
async fn a_put_is_read_back_by_who_has_its_keys() {
    let bench = Bench::new().await;
    let fields = [("username", "ada"), ("password", "hunter2")];
    assert_eq!(bench.put("payments/db", &fields).await, version(1));
    let want = pairs(&[("password", "hunter2"), ("username", "ada")]);
    assert_eq!(opened(&bench.vault, "payments/db", None).await, want);
    let fixture = bench.close().await;
    let bench = Bench::reopen(fixture).await;
    assert_eq!(opened(&bench.vault, "payments/db", None).await, want);
}

#[tokio::test]
async fn fields_that_are_not_put_are_carried_and_keep_their_value() {
    let bench = Bench::new().await;
    bench.put("payments/db", &[("a", "1"), ("b", "2")]).await;
    assert_eq!(bench.put("payments/db", &[("b", "3")]).await, version(2));
    let vault = &bench.vault;
    assert_eq!(
        opened(vault, "payments/db", None).await,
        pairs(&[("a", "1"), ("b", "3")])
    );
    assert_eq!(
        opened(vault, "payments/db", Some(version(1))).await,
        pairs(&[("a", "1"), ("b", "2")])
    );
    let versions = vault
        .versions(&path("payments/db"), None, 10)
        .await
        .unwrap();
    let value = |version: usize, field: usize| versions[version].fields[field].value;
    assert_eq!(value(0, 0), value(1, 0));
    assert_ne!(value(0, 1), value(1, 1));
}

#[tokio::test]
async fn a_replacing_put_carries_nothing() {
    let bench = Bench::new().await;
    bench.put("payments/db", &[("a", "1"), ("b", "2")]).await;
    let client = bench.client("payments/db", &[("c", "3")]).await;
    bench.commit(client.replacing().seal()).await.unwrap();
    assert_eq!(
        opened(&bench.vault, "payments/db", None).await,
        pairs(&[("c", "3")])
    );
}

#[tokio::test]
async fn an_empty_value_and_one_of_a_mebibyte_are_values() {
    let bench = Bench::new().await;
    let large = "x".repeat(1024 * 1024);
    bench.put("payments/empty", &[("a", "")]).await;
    bench
        .put("payments/large", &[("a", &large), ("b", "")])
        .await;
    assert_eq!(
        opened(&bench.vault, "payments/empty", None).await,
        pairs(&[("a", "")])
    );
    let read = opened(&bench.vault, "payments/large", None).await;
    assert_eq!(read, pairs(&[("a", &large), ("b", "")]));
    // One byte more in any field would be over, the carried mebibyte counted.
    let over = bench.client("payments/large", &[("b", "y")]).await.seal();
    let refused = bench.prepare(over).await;
    assert!(matches!(
        refused,
        Err(VaultError::TooLarge {
            found_bytes: 1_048_577,
            limit_bytes: 1_048_576
        })
    ));
}

#[tokio::test]
async fn begin_put_tells_what_is_there() {
    let bench = Bench::new().await;
    let begun = bench.vault.begin_put(&path("payments/db")).await.unwrap();
    assert_eq!((begun.secret, begun.head_version), (None, 0));
    assert_eq!(begun.store, bench.fixture.id);
    bench.put("payments/db", &[("b", "2"), ("a", "1")]).await;
    let begun = bench.vault.begin_put(&path("payments/db")).await.unwrap();
    assert!(begun.secret.is_some());
    assert_eq!(begun.head_version, 1);
    assert_eq!(begun.fields, [field("a"), field("b")]);
    let absent = bench.vault.begin_put(&path("nowhere/db")).await;
    assert!(matches!(absent, Err(VaultError::NoKeyspace(_))));
}

#[tokio::test]
async fn the_loser_of_a_race_begins_again() {
    let bench = Bench::new().await;
    bench.put("payments/db", &[("a", "1")]).await;
    let first = bench.client("payments/db", &[("a", "2")]).await.seal();
    let second = bench.client("payments/db", &[("a", "3")]).await.seal();
    // Both prepared on the same head: the ledger lets one in.
    let (first, second) = (
        bench.prepare(first).await.unwrap(),
        bench.prepare(second).await.unwrap(),
    );
    bench.ledger().apply(first.change).await.unwrap();
    let lost = bench.ledger().apply(second.change).await;
    assert!(matches!(
        lost,
        Err(ApplyError::Conflict {
            table: Table::Head,
            ..
        })
    ));
    let mut late = bench.client("payments/db", &[("a", "4")]).await;
    late.expected = 1;
    assert!(matches!(
        bench.prepare(late.seal()).await,
        Err(VaultError::HeadMoved {
            expected: 1,
            found: 2,
            ..
        })
    ));
    assert_eq!(
        opened(&bench.vault, "payments/db", None).await,
        pairs(&[("a", "2")])
    );
}

#[tokio::test]
async fn two_new_secrets_of_one_name_race_to_one() {
    let bench = Bench::new().await;
    let mut prepared = Vec::new();
    for _ in 0..2 {
        let request = bench.client("payments/new", &[("a", "1")]).await.seal();
        prepared.push(bench.prepare(request).await.unwrap().change);
    }
    let mut answers = Vec::new();
    for change in prepared {
        answers.push(bench.ledger().apply(change).await.is_ok());
    }
    assert_eq!(answers, [true, false]);
}

#[tokio::test]
async fn a_secret_id_of_another_name_is_refused() {
    let bench = Bench::new().await;
    bench.put("payments/one", &[("a", "1")]).await;
    bench.put("payments/two", &[("a", "1")]).await;
    let one = bench
        .vault
        .secret(&path("payments/one"))
        .await
        .unwrap()
        .secret;
    for to in ["payments/two", "payments/new"] {
        let mut client = bench.client(to, &[("a", "2")]).await;
        client.secret = one;
        let refused = bench.prepare(client.seal()).await;
        assert!(
            matches!(refused, Err(VaultError::OtherSecret { .. })),
            "{to}"
        );
    }
}

/// Two names that race for one new secret id: the second is stopped by the ledger itself.
#[tokio::test]
async fn one_secret_id_cannot_be_two_secrets() {
    let bench = Bench::new().await;
    let one = bench.client("payments/one", &[("a", "1")]).await;
    let mut two = bench.client("payments/two", &[("a", "1")]).await;
    two.secret = one.secret;
    let one = bench.prepare(one.seal()).await.unwrap();
    let two = bench.prepare(two.seal()).await.unwrap();
    bench.ledger().apply(one.change).await.unwrap();
    let refused = bench.ledger().apply(two.change).await;
    assert!(matches!(
        refused,
        Err(ApplyError::Conflict {
            table: Table::Version,
            ..
        })
    ));
}

#[tokio::test]
async fn a_value_id_that_exists_is_refused() {
    let bench = Bench::new().await;
    bench.put("payments/db", &[("a", "1")]).await;
    let versions = bench
        .vault
        .versions(&path("payments/db"), None, 1)
        .await
        .unwrap();
    let mut client = bench.client("payments/other", &[("b", "2")]).await;
    client.values[0].1 = versions[0].fields[0].value;
    let refused = bench.prepare(client.seal()).await;
    assert!(matches!(refused, Err(VaultError::ValueTaken { field: of }) if of == field("b")));
}

/// Two puts that race for one new value id: the second is stopped by the ledger itself.
#[tokio::test]
async fn one_value_id_cannot_be_two_values() {
    let bench = Bench::new().await;
    let one = bench.client("payments/one", &[("a", "1")]).await;
    let mut two = bench.client("payments/two", &[("a", "2")]).await;
    two.values[0].1 = one.values[0].1;
    let one = bench.prepare(one.seal()).await.unwrap();
    let two = bench.prepare(two.seal()).await.unwrap();
    bench.ledger().apply(one.change).await.unwrap();
    let refused = bench.ledger().apply(two.change).await;
    let table = Table::ValueKey;
    assert!(matches!(refused, Err(ApplyError::Conflict { table: of, .. }) if of == table));
    assert_eq!(
        opened(&bench.vault, "payments/one", None).await,
        pairs(&[("a", "1")])
    );
}

#[tokio::test]
async fn carried_fields_are_exactly_those_that_are_left() {
    let bench = Bench::new().await;
    bench.put("payments/db", &[("a", "1"), ("b", "2")]).await;
    let mut unknown = bench.client("payments/db", &[("a", "9")]).await;
    unknown.carried.push(field("ghost"));
    let refused = bench.prepare(unknown.seal()).await;
    assert!(matches!(refused, Err(VaultError::NotThere { field: of }) if of == field("ghost")));
    let mut dropped = bench.client("payments/db", &[("a", "9")]).await;
    dropped.carried.clear();
    let refused = bench.prepare(dropped.seal()).await;
    assert!(matches!(refused, Err(VaultError::NotCarried { field: of }) if of == field("b")));
}

/// Rules that a client of ours would not even seal: the request is changed after it was sealed.
#[tokio::test]
async fn rules_of_every_put_are_checked_before_anything_is_opened() {
    let bench = Bench::new().await;
    bench.put("payments/db", &[("a", "1"), ("b", "2")]).await;
    let request = bench.client("payments/db", &[("a", "3")]).await.seal();
    let mut both = request.clone();
    both.carried.push(field("a"));
    let mut none = request.clone();
    none.values.clear();
    let mut flag = request.clone();
    flag.flags = 2;
    let mut replacing = request.clone();
    replacing.flags = FLAG_REPLACE;
    let mut note = request.clone();
    note.note = "n".repeat(1025);
    let mut twice = request.clone();
    twice.values.push(twice.values[0].clone());
    let mut one_value = request.clone();
    one_value.values.push(PutValue {
        field: field("c"),
        ..one_value.values[0].clone()
    });
    for broken in [both, none, flag, replacing, note, twice, one_value] {
        let refused = bench.vault.check_put(broken).await;
        assert!(matches!(refused, Err(VaultError::Put(_))), "{refused:?}");
    }
    let mut many = request.clone();
    many.carried = (0..64).map(|n| field(&format!("f{n}"))).collect();
    let refused = bench.vault.check_put(many).await;
    assert!(matches!(
        refused,
        Err(VaultError::Put(EnvelopeError::Limit {
            found: 65,
            limit: 64,
            ..
        }))
    ));
    let mut large = request.clone();
    let ct = Bytes::from(vec![0; 600 * 1024]);
    large.values[0].ct = ct.clone();
    large.values.push(PutValue {
        field: field("c"),
        value: ValueId::random(&SystemRandom).unwrap(),
        ct,
    });
    let refused = bench.vault.check_put(large).await;
    assert!(matches!(refused, Err(VaultError::TooLarge { .. })));
    let mut short = request;
    short.values[0].ct = Bytes::from_static(&[0; 15]);
    let refused = bench.vault.check_put(short).await;
    assert!(matches!(refused, Err(VaultError::Ciphertext { .. })));
}

#[tokio::test]
async fn keys_that_were_sealed_for_anything_else_do_not_open() {
    let bench = Bench::new().await;
    bench.put("payments/db", &[("a", "1"), ("b", "2")]).await;
    let request = bench.client("payments/db", &[("a", "3")]).await.seal();
    let mut operator = request.clone();
    operator.operator = "spiffe://example.internal/operator/eve".parse().unwrap();
    let mut id = request.clone();
    id.request = RequestId::new(NOW, &SystemRandom).unwrap();
    let mut note = request.clone();
    note.note = "another".into();
    let mut value = request.clone();
    value.values[0].value = ValueId::random(&SystemRandom).unwrap();
    let mut ct = request.clone();
    let mut bytes = ct.values[0].ct.to_vec();
    bytes[0] ^= 1;
    ct.values[0].ct = bytes.into();
    let mut keys = request.clone();
    let mut bytes = keys.sealed_keys.to_vec();
    bytes[3] ^= 1;
    keys.sealed_keys = bytes.into();
    let mut cut = request.clone();
    cut.sealed_keys = cut.sealed_keys.slice(..32);
    let mut zero = request.clone();
    zero.enc = attache_envelope::x25519::Enc::from_bytes([0; 32]);
    for broken in [operator, id, note, value, ct, keys, cut, zero] {
        let refused = bench.prepare(broken).await;
        assert!(
            matches!(refused, Err(VaultError::SealedKeys)),
            "{refused:?}"
        );
    }
    bench.commit(request).await.unwrap();
}

#[tokio::test]
async fn a_ciphertext_that_is_not_by_its_key_is_refused_by_name() {
    let bench = Bench::new().await;
    let client = bench.client("payments/db", &[("a", "1"), ("b", "2")]).await;
    // Sealed for other names than it is sent under: the keys are right, the tag is not.
    let sealed = client
        .values
        .iter()
        .map(|(_, value, bytes)| {
            let binding = ValueBinding {
                store: client.begun.store,
                keyspace: &client.to.keyspace,
                secret: client.secret,
                value: *value,
                field: &field("a"),
            };
            DataKey::random(&SystemRandom)
                .unwrap()
                .seal(bytes, &binding)
                .unwrap()
        })
        .collect();
    let refused = bench.prepare(client.seal_keys(sealed)).await;
    assert!(matches!(refused, Err(VaultError::Ciphertext { field: of }) if of == field("b")));
}

#[tokio::test(start_paused = true)]
async fn a_receive_key_is_this_process_s_and_expires() {
    let bench = Bench::new().await;
    let request = bench.client("payments/db", &[("a", "1")]).await.seal();
    let mut boot = request.clone();
    boot.boot = BootId::random(&SystemRandom).unwrap();
    let mut key = request.clone();
    key.key_id = KeyId::random(&SystemRandom).unwrap();
    for broken in [boot, key] {
        assert!(matches!(
            bench.prepare(broken).await,
            Err(VaultError::ReceiveKey)
        ));
    }
    tokio::time::advance(crate::keys::OFFERED_FOR + crate::keys::REPLACED_FOR).await;
    assert!(matches!(
        bench.prepare(request).await,
        Err(VaultError::ReceiveKey)
    ));
}

#[tokio::test]
async fn a_refused_put_changes_nothing_and_a_repeat_has_the_same_digest() {
    let bench = Bench::new().await;
    let request = bench.client("payments/db", &[("a", "1")]).await.seal();
    let digest = bench
        .vault
        .check_put(request.clone())
        .await
        .unwrap()
        .digest();
    let seq = bench.ledger().seq();
    let mut broken = request.clone();
    broken.note.push('!');
    assert!(bench.prepare(broken).await.is_err());
    assert_eq!(bench.ledger().seq(), seq);
    let prepared = bench.prepare(request.clone()).await.unwrap();
    assert_eq!(prepared.digest, digest);
    bench.ledger().apply(prepared.change).await.unwrap();
    // Afterwards the head has moved: the caller finds the repeat by its digest before preparing it again.
    assert_eq!(
        bench
            .vault
            .check_put(request.clone())
            .await
            .unwrap()
            .digest(),
        digest
    );
    assert!(matches!(
        bench.prepare(request).await,
        Err(VaultError::HeadMoved { .. })
    ));
}

#[tokio::test]
async fn a_put_writes_two_rows_and_two_a_field() {
    let bench = Bench::new().await;
    for n in 1..4usize {
        let names: Vec<_> = (0..n).map(|n| format!("f{n}")).collect();
        let fields: Vec<_> = names.iter().map(|name| (name.as_str(), "v")).collect();
        let request = bench
            .client(&format!("payments/s{n}"), &fields)
            .await
            .seal();
        let change = bench.prepare(request).await.unwrap().change;
        assert_eq!(change.puts.len() + change.payloads.len(), 2 + 2 * n);
    }
}
