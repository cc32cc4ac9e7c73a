//! The settings file: what is taken, what is refused and how that is said.

use super::*;

const GOOD: &str = r#"
current = "default"
[contexts.default]
address = "127.0.0.1:7443"
broker = "spiffe://example.internal/broker/broker-0"
trust_bundle = "trust-bundle.pem"
certificate = "default.crt"
key = "default.key"
[contexts.other]
address = "broker.example:7443"
broker = "spiffe://example.internal/broker/broker-1"
enroll = "broker.example:7454"
operator = "ada"
trust_bundle = "/etc/attache/trust-bundle.pem"
certificate = "other.crt"
key = "other.key"
renew_until = "2026-11-30T10:00:00Z"
"#;

fn settings() -> Settings {
    let (current, contexts) = parse_text(GOOD).unwrap();
    Settings {
        file: "/etc/x/config.toml".into(),
        current,
        contexts,
    }
}

#[test]
fn what_is_written_reads_back() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.toml");
    let settings = Settings {
        file: file.clone(),
        ..settings()
    };
    settings.write().unwrap();
    let environment = Environment {
        config: Some(file.into()),
        ..Environment::default()
    };
    assert_eq!(Settings::read(&environment).unwrap(), settings);
}

#[test]
fn a_file_that_is_not_there_has_no_contexts_and_says_how_to_sign_in() {
    let environment = Environment {
        config: Some("/nonexistent/config.toml".into()),
        ..Environment::default()
    };
    let settings = Settings::read(&environment).unwrap();
    let refused = settings.pick(None).unwrap_err();
    assert_eq!(refused.exit, Exit::NotSignedIn);
    assert!(
        refused.to_string().contains("attache login --new"),
        "{refused}"
    );
    assert_eq!(
        Settings::read(&Environment::default()).unwrap_err().exit,
        Exit::Failed
    );
}

#[test]
fn a_context_is_picked_by_name_then_the_current_then_the_only() {
    let mut settings = settings();
    assert_eq!(settings.pick(Some("other")).unwrap().0, "other");
    assert_eq!(settings.pick(None).unwrap().0, "default");
    settings.current = None;
    assert_eq!(settings.pick(None).unwrap_err().exit, Exit::Usage);
    settings.contexts.remove("default");
    assert_eq!(settings.pick(None).unwrap().0, "other");
    let refused = settings.pick(Some("ohter")).unwrap_err();
    assert_eq!(
        (refused.exit, refused.mend.as_deref()),
        (Exit::Usage, Some("did you mean other?"))
    );
    assert_eq!(
        settings.resolve(Path::new("a.key")),
        Path::new("/etc/x/a.key")
    );
    assert_eq!(settings.resolve(Path::new("/b.key")), Path::new("/b.key"));
}

#[test]
fn bad_files_are_refused_with_the_key_and_without_its_value() {
    let canary = "hunter2 hunter2";
    let cases = [
        (
            GOOD.replace("current =", "curent ="),
            "unknown key curent; did you mean current?",
        ),
        (
            GOOD.replace("adress", "x") + "\n[contexts.third]\nadress = \"x\"",
            "unknown key contexts.third.adress; did you mean address?",
        ),
        (
            GOOD.replacen("key = \"default.key\"", "", 1),
            "contexts.default.key is missing",
        ),
        (
            GOOD.replacen("\"127.0.0.1:7443\"", "7443", 1),
            "contexts.default.address must be a text in quotes",
        ),
        (
            GOOD.replacen("127.0.0.1:7443", "", 1),
            "contexts.default.address: write HOST:PORT",
        ),
        (
            GOOD.replacen("127.0.0.1:7443", &"a".repeat(5000), 1),
            "contexts.default.address: write HOST:PORT",
        ),
        (
            GOOD.replacen("127.0.0.1:7443", canary, 1),
            "contexts.default.address: write HOST:PORT",
        ),
        (
            GOOD.replacen("default.crt", "", 1),
            "contexts.default.certificate is empty",
        ),
        (
            GOOD.replacen("default.crt", "a\\u0000b", 1),
            "contexts.default.certificate is empty, too long, or has a control character",
        ),
        (
            GOOD.replacen("broker/broker-0", "operator/ada", 1),
            "contexts.default.broker: ",
        ),
        (
            GOOD.replacen("\"ada\"", "\"a/b\"", 1),
            "contexts.other.operator: ",
        ),
        (
            GOOD.replacen("2026-11-30T10:00:00Z", canary, 1),
            "contexts.other.renew_until: is no time",
        ),
        (
            GOOD.replacen("current = \"default\"", "current = 1", 1),
            "current must be a text",
        ),
        (
            GOOD.replacen("[contexts.default]", "[contexts.\"a b\"]", 1),
            "contexts: a context's name",
        ),
        ("contexts = 1".to_owned(), "contexts must be a section"),
        ("contexts.a = 1".to_owned(), "contexts.a must be a section"),
        (format!("key = {canary}"), "it is not TOML"),
        (GOOD.to_owned() + "[contexts.default]\n", "it is not TOML"),
    ];
    for (text, expected) in cases {
        let refused = parse_text(&text).unwrap_err();
        assert!(refused.starts_with(expected), "{expected:?} <> {refused:?}");
        assert!(!refused.contains("hunter2"), "{refused}");
    }
}

#[test]
fn a_file_too_large_or_not_utf_8_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    for (bytes, expected) in [
        (vec![b'#'; 256 * 1024 + 1], "larger than"),
        (vec![0xff, 0xfe], "not UTF-8"),
    ] {
        let file = folder.path().join("config.toml");
        std::fs::write(&file, bytes).unwrap();
        let environment = Environment {
            config: Some(file.into()),
            ..Environment::default()
        };
        let refused = Settings::read(&environment).unwrap_err();
        assert!(refused.to_string().contains(expected), "{refused}");
    }
}

/// The vectors of `tests/independent`, read with the means of this crate.
#[test]
fn files_are_those_of_the_vectors() {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../tests/independent/vectors/contexts.json"
    );
    let whole: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let cases = whole["cases"].as_array().unwrap();
    assert!(!cases.is_empty());
    for case in cases {
        let text = case["out"]["text"].as_str().unwrap();
        let (current, contexts) = parse_text(text).unwrap();
        assert_eq!(current.as_deref(), case["in"]["current"].as_str());
        for (name, told) in case["in"]["contexts"].as_object().unwrap() {
            let table = contexts[name].to_table().unwrap();
            assert_eq!(serde_json::to_value(table).unwrap(), *told, "{name}");
        }
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config.toml");
        let settings = Settings {
            file: file.clone(),
            current,
            contexts,
        };
        settings.write().unwrap();
        assert_eq!(std::fs::read_to_string(file).unwrap(), text);
    }
}
