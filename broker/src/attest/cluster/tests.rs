//! Tests of cluster settings, of the registry, and of the tokens that it keeps.

use super::super::testdata::{AUDIENCE, ISSUER, Issuer, NOW_S, at, claims, identity};
use super::*;

fn spec(name: &str, audience: &str) -> ClusterSpec {
    let folder = Path::new("/nonexistent");
    ClusterSpec::in_folder(name.parse().unwrap(), ISSUER, audience, folder).unwrap()
}

fn keys(issuer: &Issuer) -> Arc<KeySet> {
    Arc::new(KeySet::parse(issuer.jwks().to_string().as_bytes()).unwrap())
}

#[test]
fn settings_are_checked() {
    let make = |issuer: &str, audience: &str, folder: &str| {
        ClusterSpec::in_folder(
            "local".parse().unwrap(),
            issuer,
            audience,
            Path::new(folder),
        )
    };
    let made = make(ISSUER, AUDIENCE, "/srv/cluster").unwrap();
    assert_eq!((made.issuer(), made.audience()), (ISSUER, AUDIENCE));
    assert_eq!(made.source(), &Source::Folder("/srv/cluster".into()));
    let longest = "a".repeat(MAX_TEXT_BYTES);
    assert!(make(&longest, &longest, "/srv").is_ok());
    let long = "a".repeat(MAX_TEXT_BYTES + 1);
    for bad in ["", "a b", "a\0", "a\n", "é", long.as_str()] {
        assert_eq!(
            make(bad, AUDIENCE, "/srv"),
            Err(ClusterError::Text { field: "issuer" }),
            "{bad:?}"
        );
        assert_eq!(
            make(ISSUER, bad, "/srv"),
            Err(ClusterError::Text { field: "audience" }),
            "{bad:?}"
        );
    }
    for bad in ["", "srv/cluster", "./x", "/srv\0/x"] {
        assert_eq!(
            make(ISSUER, AUDIENCE, bad),
            Err(ClusterError::Path { field: "folder" }),
            "{bad:?}"
        );
    }
}

#[test]
fn a_cluster_that_has_not_changed_keeps_its_memory() {
    let registry = ClusterRegistry::default();
    registry.replace([spec("a", "x"), spec("b", "x")]);
    let (a, b) = (
        registry.cluster("a").unwrap(),
        registry.cluster("b").unwrap(),
    );
    registry.replace([spec("a", "x"), spec("b", "y")]);
    assert!(Arc::ptr_eq(&a, &registry.cluster("a").unwrap()));
    assert!(!Arc::ptr_eq(&b, &registry.cluster("b").unwrap()));
    registry.replace([spec("a", "x")]);
    assert!(registry.cluster("b").is_none());
    assert!(registry.cluster("A").is_none() && registry.cluster("").is_none());
}

#[test]
fn a_token_is_believed_for_ten_seconds_and_never_past_its_end() {
    let issuer = Issuer::ed25519();
    let cluster = Cluster::new(spec("local", AUDIENCE), &ApiMetrics::default());
    let keys = keys(&issuer);
    let mut claims = claims();
    claims["exp"] = (NOW_S + 15).into();
    let token = PodToken::new(issuer.mint(&claims));
    let ask = |seconds| cluster.verify(&token, &keys, at(seconds));
    let first = ask(0).unwrap();
    assert!(Arc::ptr_eq(&first, &ask(9).unwrap()), "kept");
    let second = ask(10).unwrap();
    assert!(!Arc::ptr_eq(&first, &second), "verified again");
    assert!(Arc::ptr_eq(&second, &ask(14).unwrap()));
    assert_eq!(
        ask(15),
        Err(TokenError::Expired),
        "kept, but its end has come"
    );
    assert!(
        !Arc::ptr_eq(&second, &ask(5).unwrap()),
        "a clock that went back ends it"
    );
}

#[test]
fn a_withdrawn_key_ends_what_it_has_verified() {
    let (old, new) = (Issuer::ed25519(), Issuer::ed25519());
    let cluster = Cluster::new(spec("local", AUDIENCE), &ApiMetrics::default());
    let token = PodToken::new(old.mint(&claims()));
    assert!(cluster.verify(&token, &keys(&old), at(0)).is_ok());
    assert_eq!(
        cluster.verify(&token, &keys(&new), at(1)),
        Err(TokenError::Signature)
    );
}

#[test]
fn a_token_is_known_again_as_itself() {
    let issuer = Issuer::ed25519();
    let cluster = Cluster::new(spec("local", AUDIENCE), &ApiMetrics::default());
    let keys = keys(&issuer);
    let mut other = claims();
    other["kubernetes.io"]["pod"]["name"] = "web-1".into();
    for _ in 0..2 {
        for (claims, pod) in [(&claims(), "web-0"), (&other, "web-1")] {
            let token = PodToken::new(issuer.mint(claims));
            let identity = cluster.verify(&token, &keys, at(0)).unwrap();
            assert_eq!(identity.pod_name.as_str(), pod);
        }
    }
}

#[test]
fn a_refused_token_is_not_kept() {
    let issuer = Issuer::ed25519();
    let cluster = Cluster::new(spec("local", "another"), &ApiMetrics::default());
    let keys = keys(&issuer);
    let token = PodToken::new(issuer.mint(&claims()));
    for _ in 0..2 {
        assert_eq!(
            cluster.verify(&token, &keys, at(0)),
            Err(TokenError::Audience)
        );
    }
}

#[test]
fn what_is_kept_is_bounded() {
    let issuer = Issuer::ed25519();
    let cluster = Cluster::new(spec("local", AUDIENCE), &ApiMetrics::default());
    let keys = keys(&issuer);
    let identity = {
        let token = PodToken::new(issuer.mint(&claims()));
        cluster.verify(&token, &keys, at(0)).unwrap()
    };
    for n in 0..20_000_u64 {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&n.to_le_bytes());
        let (identity, keys) = (Arc::clone(&identity), Arc::clone(&keys));
        cluster.verified.lock().unwrap().keep(
            key,
            Verified {
                identity,
                at: at(0),
                keys,
            },
        );
    }
    assert!(Arc::strong_count(&identity) <= 2 * VERIFIED_KEPT + 1);
}

#[test]
fn the_longest_path_of_a_folder_is_taken_and_a_longer_one_is_not() {
    for (bytes, taken) in [(MAX_PATH_BYTES, true), (MAX_PATH_BYTES + 1, false)] {
        let folder = format!("/{}", "x".repeat(bytes - 1));
        let spec = ClusterSpec::in_folder(
            "local".parse().unwrap(),
            "https://issuer.example",
            "attache",
            Path::new(&folder),
        );
        assert_eq!(spec.is_ok(), taken, "{bytes} bytes");
    }
}

/// A cluster at an API server that nobody asks.
fn at_api_server(enroll_account: &str, enroll_audience: &str) -> Result<ClusterSpec, ClusterError> {
    let settings = KubernetesSettings {
        api_server: "https://127.0.0.1:1",
        credentials: Path::new("/nonexistent"),
        enroll_account,
        enroll_audience,
    };
    ClusterSpec::in_kubernetes("prod".parse().unwrap(), ISSUER, AUDIENCE, settings)
}

#[test]
fn nodes_enroll_by_a_whole_account_and_an_audience_of_its_own() {
    assert_eq!(
        at_api_server("shop/web", AUDIENCE),
        Err(ClusterError::EnrollAudience)
    );
    for bad in [
        "shop",
        "shop/",
        "/web",
        "shop/web/x",
        "Shop/web",
        "shop/We b",
    ] {
        let refused = at_api_server(bad, "enroll");
        assert_eq!(refused, Err(ClusterError::EnrollAccount), "{bad}");
    }
    let registry = ClusterRegistry::default();
    for (account, enrolls) in [("", false), ("shop/web", true)] {
        registry.replace([at_api_server(account, "enroll").unwrap()]);
        let cluster = registry.cluster("prod").unwrap();
        assert!(cluster.api().is_some());
        assert_eq!(cluster.enrollment().is_some(), enrolls);
    }
    registry.replace([spec("local", AUDIENCE)]);
    let [cluster] = &registry.all()[..] else {
        panic!("there is one")
    };
    assert!(cluster.api().is_none() && cluster.enrollment().is_none());
}

#[test]
fn a_token_is_of_the_enrolling_account_by_namespace_and_name() {
    let registry = ClusterRegistry::default();
    for (account, is_its_own) in [
        ("shop/web", true),
        ("shop/other", false),
        ("other/web", false),
    ] {
        registry.replace([at_api_server(account, "enroll").unwrap()]);
        let cluster = registry.cluster("prod").unwrap();
        let enrollment = cluster.enrollment().unwrap();
        let checked = enrollment.check_account(&identity());
        assert_eq!(checked.is_ok(), is_its_own, "{account}");
    }
}
