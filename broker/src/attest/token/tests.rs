//! Tests of tokens, with tokens that were really signed: threats S4 (audience and issuer) and S11 (JWT tricks).

use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::testdata::{AUDIENCE, B64, ISSUER, Issuer, NOW_S, at, claims, now};
use super::*;

const EXPECTED: Expected<'static> = Expected {
    issuer: ISSUER,
    audience: AUDIENCE,
};

fn keys(issuer: &Issuer) -> KeySet {
    KeySet::parse(issuer.jwks().to_string().as_bytes()).unwrap()
}

fn verify_text(token: &str, issuer: &Issuer) -> Result<Arc<PodIdentity>, TokenError> {
    verify(
        &PodToken::new(token.to_owned()),
        &keys(issuer),
        EXPECTED,
        now(),
    )
}

/// The outcome of an honest token but for one claim; none takes the claim away.
fn with_claim(path: &str, value: Option<Value>) -> Result<Arc<PodIdentity>, TokenError> {
    let mut claims = claims();
    let mut parts: Vec<&str> = path.split('/').collect();
    let last = parts.pop().unwrap();
    let object = parts
        .into_iter()
        .fold(&mut claims, |object, part| &mut object[part]);
    match value {
        Some(value) => object[last] = value,
        None => drop(object.as_object_mut().unwrap().remove(last)),
    }
    let issuer = Issuer::ed25519();
    verify_text(&issuer.mint(&claims), &issuer)
}

#[test]
fn an_honest_token_of_each_algorithm_proves_its_pod() {
    for issuer in Issuer::all() {
        let identity = verify_text(&issuer.mint(&claims()), &issuer).unwrap();
        assert_eq!(identity.namespace.as_str(), "shop");
        assert_eq!(identity.service_account.as_str(), "web");
        assert_eq!(identity.pod_name.as_str(), "web-0");
        assert_eq!(identity.pod_uid.as_str(), super::super::testdata::POD_UID);
        assert_eq!(identity.node_name.as_str(), "node-a");
        assert_eq!(identity.node_uid.as_str(), super::super::testdata::NODE_UID);
        assert_eq!(identity.token_id.as_deref(), Some("6d1c"));
    }
}

#[test]
fn s11_alg_none_is_refused() {
    let issuer = Issuer::rsa();
    let honest = issuer.mint(&claims());
    let (_, rest) = honest.split_once('.').unwrap();
    let (body, signature) = rest.split_once('.').unwrap();
    for alg in ["none", "None", "NONE", "nOnE", ""] {
        let header = B64.encode(json!({"alg": alg, "kid": "k1"}).to_string());
        for signature in ["", signature] {
            let token = format!("{header}.{body}.{signature}");
            let refused = verify_text(&token, &issuer);
            assert_eq!(
                refused,
                Err(TokenError::Algorithm { expected: "RS256" }),
                "{alg}"
            );
        }
    }
}

#[test]
fn s11_a_mac_under_the_public_key_is_refused() {
    for issuer in Issuer::all() {
        let header = B64.encode(r#"{"alg":"HS256","kid":"k1"}"#);
        let message = format!("{header}.{}", B64.encode(claims().to_string()));
        let jwk = issuer.jwk("k1").to_string();
        for key in [issuer.public(), jwk.into_bytes()] {
            let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &key);
            let mac = ring::hmac::sign(&key, message.as_bytes());
            let token = format!("{message}.{}", B64.encode(mac));
            let expected = issuer.alg();
            assert_eq!(
                verify_text(&token, &issuer),
                Err(TokenError::Algorithm { expected })
            );
        }
    }
}

#[test]
fn s11_the_key_fixes_the_algorithm() {
    let [rsa, ec, ed] = Issuer::all();
    for (issuer, algs) in [
        (
            &rsa,
            [
                "ES256", "EdDSA", "RS384", "RS512", "PS256", "rs256", "HS256",
            ],
        ),
        (
            &ec,
            [
                "RS256", "EdDSA", "ES384", "ES256K", "ES512", "es256", "HS256",
            ],
        ),
        (
            &ed,
            [
                "RS256", "ES256", "Ed25519", "EDDSA", "Ed448", "eddsa", "HS256",
            ],
        ),
    ] {
        for alg in algs {
            let header = json!({"alg": alg, "kid": "k1"}).to_string();
            let token = issuer.sign(&header, &claims().to_string());
            let expected = issuer.alg();
            let refused = verify_text(&token, issuer);
            assert_eq!(refused, Err(TokenError::Algorithm { expected }), "{alg}");
        }
    }
}

#[test]
fn s11_a_key_that_the_token_brings_along_is_not_used() {
    let (cluster, thief) = (Issuer::p256(), Issuer::p256());
    let header = json!({
        "alg": "ES256", "kid": "k1", "jwk": thief.jwk("k1"), "jku": "https://thief.example/jwks",
        "x5u": "https://thief.example/chain", "x5c": ["AAAA"],
    });
    let token = thief.sign(&header.to_string(), &claims().to_string());
    assert_eq!(verify_text(&token, &cluster), Err(TokenError::Signature));
}

#[test]
fn s11_headers_with_tricks_are_refused() {
    let issuer = Issuer::ed25519();
    let deep = format!(
        r#"{{"alg":"EdDSA","kid":"k1","x":{}{}}}"#,
        "[".repeat(9),
        "]".repeat(9)
    );
    let long = json!({"alg": "EdDSA", "kid": "k".repeat(MAX_KID_BYTES + 1)}).to_string();
    let longest = json!({"alg": "EdDSA", "kid": "k".repeat(MAX_KID_BYTES)}).to_string();
    let token = issuer.sign(&longest, &claims().to_string());
    assert_eq!(verify_text(&token, &issuer), Err(TokenError::UnknownKey));
    for header in [
        r#"{"alg":"EdDSA","kid":"k1","crit":["exp"]}"#,
        r#"{"alg":"EdDSA","kid":"k1","crit":null}"#,
        r#"{"alg":"EdDSA","kid":"k1","zip":"DEF"}"#,
        r#"{"alg":"EdDSA","alg":"EdDSA","kid":"k1"}"#,
        r#"{"alg":"EdDSA","kid":"k1","kid":"k1"}"#,
        r#"{"alg":["EdDSA"],"kid":"k1"}"#,
        r#"{"alg":null,"kid":"k1"}"#,
        r#"{"kid":"k1"}"#,
        r#"{"alg":"EdDSA","kid":1}"#,
        r#"{"alg":"EdDSA","kid":"k1"} x"#,
        "[]",
        "",
        "{",
        &deep,
        &long,
    ] {
        let token = issuer.sign(header, &claims().to_string());
        assert_eq!(
            verify_text(&token, &issuer),
            Err(TokenError::Header),
            "{header}"
        );
    }
    for (kid, expected) in [("k2", TokenError::UnknownKey), ("", TokenError::UnknownKey)] {
        let header = json!({"alg": "EdDSA", "kid": kid}).to_string();
        let token = issuer.sign(&header, &claims().to_string());
        assert_eq!(verify_text(&token, &issuer), Err(expected), "{kid:?}");
    }
    let token = issuer.sign(r#"{"alg":"EdDSA"}"#, &claims().to_string());
    assert!(
        verify_text(&token, &issuer).is_ok(),
        "without kid the only key is meant"
    );
}

#[test]
fn s11_times_are_integers_or_nothing() {
    for claim in ["exp", "nbf", "iat"] {
        for (what, value) in [
            ("missing", None),
            ("string", Some(json!((NOW_S + 60).to_string()))),
            ("null", Some(Value::Null)),
            ("array", Some(json!([NOW_S + 60]))),
            ("object", Some(json!({"s": NOW_S + 60}))),
            ("true", Some(json!(true))),
            ("negative", Some(json!(-1))),
            ("fraction", Some(json!(1_800_000_060.5))),
            ("whole fraction", Some(json!(1_800_000_060.0))),
        ] {
            assert_eq!(
                with_claim(claim, value),
                Err(TokenError::Claim { claim }),
                "{claim} {what}"
            );
        }
    }
    let issuer = Issuer::ed25519();
    for bad in [
        "1e10",
        "18446744073709551616",
        "-0",
        "1800000060.0",
        "\"1800000060\"",
    ] {
        let text = claims().to_string().replace(
            &format!("\"exp\":{}", NOW_S + 600),
            &format!("\"exp\":{bad}"),
        );
        assert!(text.contains(bad));
        let token = issuer.sign(r#"{"alg":"EdDSA","kid":"k1"}"#, &text);
        assert_eq!(
            verify_text(&token, &issuer),
            Err(TokenError::Claim { claim: "exp" }),
            "{bad}"
        );
    }
}

#[test]
fn s11_a_claim_that_stands_there_twice_is_refused() {
    let issuer = Issuer::ed25519();
    let honest = claims().to_string();
    for twice in [
        "\"exp\":1900000000",
        "\"aud\":\"attache\"",
        "\"iss\":\"https://issuer.example\"",
    ] {
        let text = format!("{{{twice},{}", &honest[1..]);
        let token = issuer.sign(r#"{"alg":"EdDSA","kid":"k1"}"#, &text);
        assert!(
            matches!(verify_text(&token, &issuer), Err(TokenError::Claim { .. })),
            "{twice}"
        );
    }
}

#[test]
fn a_token_lives_from_nbf_and_iat_until_exp() {
    let issuer = Issuer::ed25519();
    let keys = keys(&issuer);
    let token = PodToken::new(issuer.mint(&claims()));
    let outcome = |seconds| verify(&token, &keys, EXPECTED, at(seconds)).map(drop);
    assert_eq!(outcome(599), Ok(()));
    assert_eq!(outcome(600), Err(TokenError::Expired), "exp has no leeway");
    assert_eq!(outcome(-5), Ok(()), "clocks may differ by the leeway");
    assert_eq!(outcome(-6), Err(TokenError::NotYetValid));
    for claim in ["nbf", "iat"] {
        assert!(with_claim(claim, Some(json!(NOW_S + 5))).is_ok(), "{claim}");
        assert_eq!(
            with_claim(claim, Some(json!(NOW_S + 6))),
            Err(TokenError::NotYetValid)
        );
        assert_eq!(
            with_claim(claim, Some(json!(u64::MAX))),
            Err(TokenError::NotYetValid)
        );
    }
    assert_eq!(with_claim("exp", Some(json!(0))), Err(TokenError::Expired));
    let before_1970 = Timestamp::from_second(-1).unwrap();
    assert_eq!(
        verify(&token, &keys, EXPECTED, before_1970),
        Err(TokenError::NotYetValid)
    );
}

#[test]
fn s4_the_audience_is_ours_alone() {
    let api = "https://kubernetes.default.svc";
    let wrong_type = Err(TokenError::Claim { claim: "aud" });
    for (aud, expected) in [
        (Some(json!("attache")), Ok(())),
        (Some(json!(["attache"])), Ok(())),
        (Some(json!(api)), Err(TokenError::Audience)),
        (Some(json!([api])), Err(TokenError::Audience)),
        (Some(json!([])), Err(TokenError::Audience)),
        (Some(json!("")), Err(TokenError::Audience)),
        (Some(json!("attache2")), Err(TokenError::Audience)),
        (Some(json!("Attache")), Err(TokenError::Audience)),
        (Some(json!("attache attache")), Err(TokenError::Audience)),
        (
            Some(json!(["attache", api])),
            Err(TokenError::SharedAudience),
        ),
        (
            Some(json!([api, "attache"])),
            Err(TokenError::SharedAudience),
        ),
        (None, wrong_type),
        (Some(Value::Null), wrong_type),
        (Some(json!({"attache": true})), wrong_type),
        (Some(json!([["attache"]])), wrong_type),
        (Some(json!(["attache", null])), wrong_type),
    ] {
        let what = format!("{aud:?}");
        assert_eq!(with_claim("aud", aud).map(drop), expected, "{what}");
    }
}

#[test]
fn s4_the_issuer_is_the_clusters_exactly() {
    for iss in [
        "https://issuer.example/",
        "https://issuer.example.evil",
        "",
        "HTTPS://issuer.example",
    ] {
        assert_eq!(
            with_claim("iss", Some(json!(iss))),
            Err(TokenError::Issuer),
            "{iss}"
        );
    }
    for iss in [None, Some(Value::Null), Some(json!([ISSUER]))] {
        assert_eq!(
            with_claim("iss", iss),
            Err(TokenError::Claim { claim: "iss" })
        );
    }
}

#[test]
fn a_token_is_bound_to_pod_node_and_service_account() {
    let unbound = |object| Err(TokenError::Unbound { object });
    let malformed = || {
        Err(TokenError::Claim {
            claim: "kubernetes.io, jti, or one that stands there twice",
        })
    };
    for (path, value, expected) in [
        ("kubernetes.io/pod", None, unbound("pod")),
        ("kubernetes.io/pod", Some(Value::Null), unbound("pod")),
        ("kubernetes.io/pod/uid", None, unbound("pod")),
        ("kubernetes.io/node", None, unbound("node")),
        ("kubernetes.io/node", Some(Value::Null), unbound("node")),
        ("kubernetes.io/node/uid", None, unbound("node")),
        ("kubernetes.io/node/uid", Some(Value::Null), unbound("node")),
        ("kubernetes.io/node/name", None, malformed()),
        ("kubernetes.io/pod", Some(json!("web-0")), malformed()),
        ("kubernetes.io/serviceaccount", None, malformed()),
        ("kubernetes.io/namespace", None, malformed()),
        (
            "kubernetes.io/namespace",
            Some(json!(["shop"])),
            malformed(),
        ),
        (
            "kubernetes.io",
            None,
            Err(TokenError::Claim {
                claim: "kubernetes.io",
            }),
        ),
        (
            "kubernetes.io",
            Some(json!([])),
            Err(TokenError::Claim {
                claim: "kubernetes.io",
            }),
        ),
        ("sub", None, Err(TokenError::Claim { claim: "sub" })),
        (
            "sub",
            Some(json!("system:serviceaccount:shop:db")),
            Err(TokenError::Subject),
        ),
        (
            "sub",
            Some(json!("system:serviceaccount:shop:web:x")),
            Err(TokenError::Subject),
        ),
        (
            "sub",
            Some(json!("system:node:node-a")),
            Err(TokenError::Subject),
        ),
        (
            "kubernetes.io/serviceaccount/name",
            Some(json!("db")),
            Err(TokenError::Subject),
        ),
        (
            "kubernetes.io/namespace",
            Some(json!("other")),
            Err(TokenError::Subject),
        ),
        ("jti", Some(json!(1)), malformed()),
    ] {
        let what = format!("{path} {value:?}");
        assert_eq!(with_claim(path, value).map(drop), expected, "{what}");
    }
    assert!(with_claim("jti", None).is_ok());
}

#[test]
fn names_that_are_paths_or_worse_are_refused() {
    for path in [
        "kubernetes.io/pod/name",
        "kubernetes.io/pod/uid",
        "kubernetes.io/node/name",
        "kubernetes.io/node/uid",
    ] {
        let long = "a".repeat(4096);
        for bad in [
            "",
            "..",
            "../../etc/passwd",
            "a/b",
            "a\0b",
            "a b",
            "é",
            "a\n",
            long.as_str(),
        ] {
            let refused = with_claim(path, Some(json!(bad)));
            assert!(
                matches!(refused, Err(TokenError::Claim { .. })),
                "{path} {bad:?}: {refused:?}"
            );
        }
    }
}

#[test]
fn what_is_no_jwt_is_refused() {
    let issuer = Issuer::ed25519();
    let honest = issuer.mint(&claims());
    let [header, body, signature]: [&str; 3] =
        honest.split('.').collect::<Vec<_>>().try_into().unwrap();
    let long = format!("{honest}{}", "A".repeat(MAX_TOKEN_BYTES));
    for bad in [
        "",
        ".",
        "..",
        "a.b",
        &format!("{header}.{body}"),
        &format!("{honest}.{signature}"),
        &format!("{header}.{body}.{signature}=="),
        &format!("{header}.{body}.{signature}\n"),
        &format!(" {honest}"),
        &format!("{header}.{body}.+/+/"),
        &format!("{header}.{body}\0.{signature}"),
        &format!("Bearer {honest}"),
        &long,
    ] {
        let refused = verify_text(bad, &issuer);
        assert!(
            matches!(refused, Err(TokenError::Malformed | TokenError::Header)),
            "{refused:?}"
        );
    }
    for signature in ["", "AA", &B64.encode([0; 64])] {
        let token = format!("{header}.{body}.{signature}");
        assert_eq!(verify_text(&token, &issuer), Err(TokenError::Signature));
    }
    let other = Issuer::ed25519();
    assert_eq!(
        verify_text(&honest, &other),
        Err(TokenError::Signature),
        "another cluster's key"
    );
}

#[test]
fn a_token_may_be_as_long_as_the_limit() {
    let issuer = Issuer::ed25519();
    let honest = claims().to_string();
    // Blanks in header and claims make up what is left; no part of base64url has every length.
    let padded = |header: usize, claims: usize| {
        let header = format!(r#"{{"alg":"EdDSA","kid":"k1"}}{}"#, " ".repeat(header));
        issuer.sign(&header, &format!("{honest}{}", " ".repeat(claims)))
    };
    let left = (MAX_TOKEN_BYTES - padded(0, 0).len()) / 4 * 3;
    let lengths =
        (0..3).flat_map(|header| (left - 6..left + 6).map(move |claims| (header, claims)));
    let (mut longest, mut longer) = (0, 0);
    for (header, claims) in lengths {
        let token = padded(header, claims);
        let outcome = verify_text(&token, &issuer).map(drop);
        if token.len() <= MAX_TOKEN_BYTES {
            assert_eq!(outcome, Ok(()), "{} bytes", token.len());
        } else {
            assert_eq!(outcome, Err(TokenError::Malformed), "{} bytes", token.len());
        }
        longest += usize::from(token.len() == MAX_TOKEN_BYTES);
        longer += usize::from(token.len() == MAX_TOKEN_BYTES + 1);
    }
    assert!(longest > 0 && longer > 0, "the limit was met");
}

#[test]
fn claims_that_nest_deeply_are_refused_before_they_are_parsed() {
    let issuer = Issuer::ed25519();
    let honest = claims().to_string();
    for (levels, fits) in [(7, true), (8, false), (5000, false)] {
        let nested = format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        let text = format!("{{\"x\":{nested},{}", &honest[1..]);
        let token = issuer.sign(r#"{"alg":"EdDSA","kid":"k1"}"#, &text);
        assert_eq!(verify_text(&token, &issuer).is_ok(), fits, "{levels}");
    }
    let (open, close) = ("[".repeat(9), "]".repeat(9));
    for (what, nested, fits) in [
        ("in a string", format!("\"{open}\""), true),
        ("after a quote in it", format!("\"\\\"{open}\""), true),
        ("side by side", format!("[{}[]]", "[],".repeat(9)), true),
        (
            "ended in a string",
            format!("[[[[\"{close}\",[[[[[]]]]]]]]]"),
            false,
        ),
    ] {
        let text = format!("{{\"x\":{nested},{}", &honest[1..]);
        let token = issuer.sign(r#"{"alg":"EdDSA","kid":"k1"}"#, &text);
        assert_eq!(verify_text(&token, &issuer).is_ok(), fits, "{what}");
    }
}

#[test]
fn no_error_repeats_a_part_of_the_token() {
    let issuer = Issuer::ed25519();
    let canary = "canary-4f2a";
    let mut bad = claims();
    bad["exp"] = canary.into();
    bad["kubernetes.io"]["pod"]["name"] = canary.into();
    for token in [
        issuer.mint(&bad),
        canary.to_owned(),
        format!("{canary}.{canary}.{canary}"),
    ] {
        let error = verify_text(&token, &issuer).unwrap_err();
        let shown = format!("{error} {error:?} {}", error.public());
        assert!(!shown.contains("canary"), "{shown}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Whatever bit of a token is flipped, it proves nothing.
    #[test]
    fn one_flipped_bit_is_refused(at in any::<prop::sample::Index>(), bit in 0_u8..7) {
        let issuer = Issuer::ed25519();
        let honest = issuer.mint(&claims());
        let mut bytes = honest.clone().into_bytes();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        let flipped = String::from_utf8(bytes).unwrap();
        prop_assert!(verify_text(&honest, &issuer).is_ok());
        prop_assert!(verify_text(&flipped, &issuer).is_err());
    }

    /// No text is a token by chance, and none panics.
    #[test]
    fn any_text_is_refused(text in "\\PC{0,200}", parts in prop::collection::vec("[A-Za-z0-9_-]{0,80}", 3)) {
        let issuer = Issuer::ed25519();
        prop_assert!(verify_text(&text, &issuer).is_err());
        prop_assert!(verify_text(&parts.join("."), &issuer).is_err());
    }
}
