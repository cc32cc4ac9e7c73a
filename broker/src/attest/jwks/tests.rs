//! Tests of key sets.

use serde_json::{Value, json};

use super::super::testdata::{B64, Issuer};
use super::*;

fn parse(keys: Value) -> Result<KeySet, JwksError> {
    KeySet::parse(json!({"keys": keys}).to_string().as_bytes())
}

/// The state of the one key of a set.
fn only(jwk: Value) -> Result<Algorithm, Unusable> {
    let set = parse(json!([jwk])).unwrap();
    set.find(None).unwrap().map(VerifyKey::algorithm)
}

fn changed(issuer: &Issuer, field: &str, value: Value) -> Value {
    let mut jwk = issuer.jwk("k1");
    jwk[field] = value;
    jwk
}

#[test]
fn a_key_of_each_kind_has_one_algorithm() {
    let found = Issuer::all().map(|issuer| only(issuer.jwk("k")).unwrap());
    assert_eq!(
        found,
        [Algorithm::Rs256, Algorithm::Es256, Algorithm::EdDsa]
    );
    // Without alg and use it follows from the kind all the same.
    for issuer in Issuer::all() {
        let mut jwk = issuer.jwk("k");
        jwk.as_object_mut()
            .unwrap()
            .retain(|key, _| key != "alg" && key != "use");
        assert_eq!(only(jwk).unwrap().name(), issuer.alg());
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "one table")]
fn keys_of_other_kinds_and_uses_verify_nothing() {
    let [rsa, ec, ed] = Issuer::all();
    let weak = B64.encode([&[0x80], &[1; 127][..]].concat());
    let huge = B64.encode([&[0x80], &[1; 1024][..]].concat());
    let cases = [
        (
            "symmetric",
            json!({"kty": "oct", "k": "AAAA", "alg": "HS256"}),
            Unusable::Type,
        ),
        (
            "unknown kty",
            changed(&rsa, "kty", json!("PQ")),
            Unusable::Type,
        ),
        (
            "P-384",
            changed(&ec, "crv", json!("P-384")),
            Unusable::Curve,
        ),
        (
            "X25519",
            changed(&ed, "crv", json!("X25519")),
            Unusable::Curve,
        ),
        (
            "EC without crv",
            changed(&ec, "crv", Value::Null),
            Unusable::Curve,
        ),
        (
            "RSA with crv",
            changed(&rsa, "crv", json!("P-256")),
            Unusable::Curve,
        ),
        (
            "for encryption",
            changed(&rsa, "use", json!("enc")),
            Unusable::Use,
        ),
        (
            "only signs",
            changed(&rsa, "key_ops", json!(["sign"])),
            Unusable::Use,
        ),
        (
            "no operation",
            changed(&rsa, "key_ops", json!([])),
            Unusable::Use,
        ),
        (
            "RS512",
            changed(&rsa, "alg", json!("RS512")),
            Unusable::Algorithm,
        ),
        (
            "HS256 on RSA",
            changed(&rsa, "alg", json!("HS256")),
            Unusable::Algorithm,
        ),
        (
            "none",
            changed(&rsa, "alg", json!("none")),
            Unusable::Algorithm,
        ),
        (
            "RSA of 1,024 bits",
            changed(&rsa, "n", json!(weak)),
            Unusable::Rsa,
        ),
        (
            "RSA of 8,200 bits",
            changed(&rsa, "n", json!(huge)),
            Unusable::Rsa,
        ),
        ("e = 3", changed(&rsa, "e", json!("Aw")), Unusable::Rsa),
        (
            "e even",
            changed(&rsa, "e", json!(B64.encode([1, 0, 0]))),
            Unusable::Rsa,
        ),
        (
            "leading zero",
            changed(&rsa, "e", json!(B64.encode([0, 1, 0, 1]))),
            Unusable::Numbers,
        ),
        (
            "no modulus",
            changed(&rsa, "n", Value::Null),
            Unusable::Numbers,
        ),
        (
            "padding",
            changed(&rsa, "e", json!("AQAB====")),
            Unusable::Numbers,
        ),
        (
            "short coordinate",
            changed(&ec, "y", json!(B64.encode([1; 31]))),
            Unusable::Numbers,
        ),
        ("no y", changed(&ec, "y", Value::Null), Unusable::Numbers),
        (
            "long point",
            changed(&ed, "x", json!(B64.encode([1; 33]))),
            Unusable::Numbers,
        ),
    ];
    for (what, jwk, expected) in cases {
        assert_eq!(only(jwk).err(), Some(expected), "{what}");
    }
    let just_enough = B64.encode([&[0x80], &[1; 255][..]].concat());
    assert!(only(changed(&rsa, "n", json!(just_enough))).is_ok());
    let a_bit_short = B64.encode([&[0x7f], &[1; 255][..]].concat());
    assert_eq!(
        only(changed(&rsa, "n", json!(a_bit_short))).err(),
        Some(Unusable::Rsa)
    );
    assert!(only(changed(&rsa, "key_ops", json!(["verify"]))).is_ok());
}

#[test]
fn a_set_that_could_be_read_in_two_ways_is_refused() {
    let issuer = Issuer::ed25519();
    let (a, b) = (issuer.jwk("a"), issuer.jwk("b"));
    let nameless = changed(&issuer, "kid", Value::Null);
    assert!(parse(json!([a, b, nameless])).is_ok());
    assert_eq!(parse(json!([a, a])).err(), Some(JwksError::Ambiguous));
    assert_eq!(
        parse(json!([nameless, nameless])).err(),
        Some(JwksError::Ambiguous)
    );
    assert_eq!(parse(json!([issuer.jwk("")])).err(), Some(JwksError::KeyId));
    assert_eq!(
        parse(json!([issuer.jwk(&"k".repeat(257))])).err(),
        Some(JwksError::KeyId)
    );
    let many: Vec<Value> = (0..65).map(|n| issuer.jwk(&n.to_string())).collect();
    assert!(parse(json!(many[..64])).is_ok());
    assert_eq!(parse(json!(many)).err(), Some(JwksError::TooMany));
    for bad in [
        "",
        "{}",
        "[]",
        "{\"keys\": null}",
        "{\"keys\": [1]}",
        "{\"keys\": [{}]}",
        "\0",
    ] {
        assert_eq!(
            KeySet::parse(bad.as_bytes()).err(),
            Some(JwksError::Malformed),
            "{bad:?}"
        );
    }
    let empty = "{\"keys\": []}";
    let largest = format!("{empty}{}", " ".repeat(MAX_JWKS_BYTES - empty.len()));
    assert!(KeySet::parse(largest.as_bytes()).is_ok());
    let large = format!("{largest} ");
    assert_eq!(
        KeySet::parse(large.as_bytes()).err(),
        Some(JwksError::TooLarge)
    );
}

#[test]
fn a_set_prints_how_many_keys_it_has_and_no_more() {
    let issuer = Issuer::ed25519();
    let two = parse(json!([issuer.jwk("a"), issuer.jwk("b")])).unwrap();
    assert_eq!(format!("{two:?}"), "KeySet(2 keys)");
}

#[test]
fn a_token_finds_its_key_by_kid_alone() {
    let issuer = Issuer::ed25519();
    let one = parse(json!([issuer.jwk("a")])).unwrap();
    assert!(one.find(Some("a")).is_some());
    assert!(one.find(Some("b")).is_none());
    assert!(
        one.find(None).is_some(),
        "without kid the only key is meant"
    );
    let two = parse(json!([issuer.jwk("a"), issuer.jwk("b")])).unwrap();
    assert!(two.find(Some("b")).is_some());
    assert!(two.find(None).is_none(), "without kid none of two is meant");
    assert!(parse(json!([])).unwrap().find(None).is_none());
}
