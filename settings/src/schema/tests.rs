//! Every kind of bad input, for every kind of key.

use super::*;

const SCHEMA: Schema = Schema {
    keys: &[
        Key {
            path: "name",
            kind: Kind::Text,
            fallback: Fallback::Required,
            help: "what the process is called",
        },
        Key {
            path: "listen.grpc",
            kind: Kind::Address,
            fallback: Fallback::Default("127.0.0.1:7443"),
            help: "where callers connect",
        },
        Key {
            path: "listen.metrics",
            kind: Kind::Address,
            fallback: Fallback::Absent,
            help: "where numbers are read",
        },
        Key {
            path: "peer.address",
            kind: Kind::Endpoint,
            fallback: Fallback::Absent,
            help: "where another listens",
        },
        Key {
            path: "store.dir",
            kind: Kind::Path,
            fallback: Fallback::Absent,
            help: "where the store lives",
        },
        Key {
            path: "limits.depth",
            kind: Kind::Integer { min: 1, max: 9 },
            fallback: Fallback::Default("3"),
            help: "how deep",
        },
        Key {
            path: "keys.danger",
            kind: Kind::Flag,
            fallback: Fallback::Default("false"),
            help: "weakens",
        },
        Key {
            path: "telemetry.format",
            kind: Kind::OneOf(&["text", "json"]),
            fallback: Fallback::Default("text"),
            help: "of the log",
        },
    ],
};

fn refused(text: &str) -> String {
    SCHEMA
        .parse(text)
        .err()
        .expect("must be refused")
        .to_string()
}

#[test]
fn defaults_hold_for_what_is_absent() {
    let settings = SCHEMA.parse("name = 'a'").unwrap();
    assert_eq!(settings.text("name").unwrap(), "a");
    assert_eq!(
        settings.address("listen.grpc").unwrap().to_string(),
        "127.0.0.1:7443"
    );
    assert_eq!(settings.optional_text("store.dir").unwrap(), None);
    assert_eq!(settings.integer::<u8>("limits.depth").unwrap(), 3);
    assert!(!settings.flag("keys.danger").unwrap());
}

#[test]
fn what_the_file_says_holds_over_the_defaults() {
    let text = "name='a'\n[store]\ndir='/var/lib'\n[limits]\ndepth=9\n[keys]\ndanger=true";
    let settings = SCHEMA.parse(text).unwrap();
    assert_eq!(settings.path("store.dir").unwrap(), Path::new("/var/lib"));
    let nine = std::time::Duration::from_secs(9);
    assert_eq!(settings.seconds("limits.depth").unwrap(), nine);
    assert!(settings.flag("keys.danger").unwrap());
}

#[test]
fn an_address_may_be_absent_where_the_schema_says_so() {
    let settings = SCHEMA.parse("name = 'a'").unwrap();
    assert_eq!(settings.optional_address("listen.metrics").unwrap(), None);
    let text = "name = 'a'\n[listen]\nmetrics = '[::1]:9464'";
    let settings = SCHEMA.parse(text).unwrap();
    let address = settings.optional_address("listen.metrics").unwrap();
    assert_eq!(address.unwrap().to_string(), "[::1]:9464");
    assert!(settings.optional_address("name").is_err());
}

#[test]
fn a_declared_section_may_be_empty() {
    assert!(SCHEMA.parse("name='a'\n[store]\n").is_ok());
}

#[test]
fn a_text_and_a_file_may_be_as_long_as_their_limits() {
    let name = "a".repeat(TEXT_LIMIT_BYTES);
    let text = format!("name='{name}'\n#");
    assert_eq!(SCHEMA.parse(&text).unwrap().text("name").unwrap(), name);

    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.toml");
    let longest = format!("{text}{}", "#".repeat(65_536 - text.len()));
    std::fs::write(&file, &longest).unwrap();
    assert!(SCHEMA.read(&file).is_ok());
    std::fs::write(&file, longest + "#").unwrap();
    assert!(matches!(
        SCHEMA.read(&file),
        Err(SettingsError::TooLarge { limit: 65_536, .. })
    ));
}

#[test]
fn an_unknown_key_is_refused_with_the_nearest_known_one() {
    assert_eq!(
        refused("name='a'\n[listen]\ngrcp='x'"),
        "unknown key listen.grcp; did you mean listen.grpc?"
    );
    assert_eq!(
        refused("name='a'\n[store]\ndri='/x'"),
        "unknown key store.dri; did you mean store.dir?"
    );
    assert_eq!(
        refused("name='a'\n[zzz]\nqqqqqqq=1"),
        "unknown key zzz.qqqqqqq"
    );
    assert_eq!(refused("name='a'\n[store_]\n"), "unknown key store_");
}

#[test]
fn a_missing_key_says_what_it_is_for() {
    assert_eq!(refused(""), "name is missing: what the process is called");
}

#[test]
fn every_kind_refuses_other_types() {
    for text in [
        "name = 1",
        "name = 'a'\n[listen]\ngrpc = 1",
        "name = 'a'\n[store]\ndir = true",
        "name = 'a'\n[limits]\ndepth = '3'",
        "name = 'a'\n[limits]\ndepth = 3.5",
        "name = 'a'\n[keys]\ndanger = 'true'",
        "name = 'a'\n[telemetry]\nformat = ['text']",
        "name = 'a'\n[[listen]]\ngrpc = 'a'",
        "[name]\nx = 1",
    ] {
        let message = refused(text);
        assert!(
            message.contains("must be") || message.contains("unknown key"),
            "{text}: {message}"
        );
    }
}

#[test]
fn bad_values_name_the_key_and_the_mend() {
    assert_eq!(
        refused("name = ''"),
        "name is empty: what the process is called"
    );
    assert!(refused("name = \"a\\u0000b\"").starts_with("name contains a control character"));
    assert!(
        refused(&format!("name = '{}'", "a".repeat(4097))).starts_with("name is longer than 4096")
    );
    assert!(refused("name='a'\n[listen]\ngrpc='localhost:1'").contains("127.0.0.1:7443"));
    assert!(refused("name='a'\n[store]\ndir='var'").contains("absolute path"));
    assert_eq!(
        refused("name='a'\n[limits]\ndepth=10"),
        "limits.depth must be between 1 and 9"
    );
    assert_eq!(
        refused("name='a'\n[telemetry]\nformat='xml'"),
        "telemetry.format must be one of: text, json"
    );
}

#[test]
fn a_syntax_error_names_the_line_and_echoes_nothing_of_it() {
    let message = refused("name = 'a'\npassword hunter2\n");
    assert!(message.contains("line 2"), "{message}");
    assert!(!message.contains("hunter2"), "{message}");
}

#[test]
fn a_file_that_is_not_utf8_or_too_large_or_absent_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.toml");
    assert!(matches!(SCHEMA.read(&file), Err(SettingsError::Read(_))));
    std::fs::write(&file, b"name = '\xff'").unwrap();
    assert!(matches!(
        SCHEMA.read(&file),
        Err(SettingsError::Syntax { line: 0, .. })
    ));
    std::fs::write(&file, vec![b'#'; 70_000]).unwrap();
    assert!(matches!(
        SCHEMA.read(&file),
        Err(SettingsError::TooLarge { .. })
    ));
}

#[test]
fn help_shows_every_key_with_its_default() {
    let help = SCHEMA.help();
    for key in SCHEMA.keys {
        assert!(help.contains(key.path));
    }
    assert!(
        help.contains("[default 127.0.0.1:7443]")
            && help.contains("[required]")
            && help.contains("[not set]")
    );
}

#[test]
fn asking_for_an_undeclared_key_is_an_error_and_no_panic() {
    let settings = SCHEMA.parse("name = 'a'").unwrap();
    assert!(matches!(
        settings.text("nope"),
        Err(SettingsError::Undeclared(_))
    ));
    assert!(matches!(
        settings.integer::<u8>("name"),
        Err(SettingsError::Undeclared(_))
    ));
}

#[test]
fn what_is_no_file_is_refused_and_not_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let fifo = folder.path().join("fifo");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &fifo,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    for path in [fifo.as_path(), folder.path(), &folder.path().join("absent")] {
        let refused = SCHEMA.read(path);
        assert!(
            matches!(&refused, Err(SettingsError::Read(_))),
            "{}",
            path.display()
        );
    }
}

#[test]
fn an_endpoint_is_a_name_or_an_ip_address_with_a_port() {
    for good in [
        "broker:7443",
        "attache-broker.attache-system.svc.cluster.local.:7443",
        "127.0.0.1:1",
        "[::1]:65535",
        "10-0-0-1.example:7443",
    ] {
        let text = format!("name = \"x\"\n[peer]\naddress = \"{good}\"");
        let settings = SCHEMA.parse(&text).unwrap();
        assert_eq!(settings.text("peer.address").unwrap(), good);
    }
    for bad in [
        "broker",
        ":7443",
        "broker:",
        "broker:0",
        "127.0.0.1:0",
        "broker:65536",
        "broker:+1",
        "bro ker:1",
        "-a:1",
        "a-:1",
        "a..b:1",
        ".:1",
        "127.0.0.300:1",
        "1.2.3:1",
        "::1:7443",
        "user@broker:1",
        "https://broker:1",
    ] {
        let line = refused(&format!("name = \"x\"\n[peer]\naddress = \"{bad}\""));
        assert!(
            line.contains("peer.address") && line.contains("broker.example:7443"),
            "{bad}: {line}"
        );
    }
    let long = format!(
        "name = \"x\"\n[peer]\naddress = \"{}:1\"",
        "a.".repeat(127) + "b"
    );
    assert!(refused(&long).contains("peer.address"));
}

#[test]
fn what_the_command_line_gives_stands_in_place_of_the_files() {
    let given = [("name", "given")];
    for file in ["", "name = \"file\""] {
        let settings = SCHEMA.parse_with(file, &given).unwrap();
        assert_eq!(settings.text("name").unwrap(), "given");
    }
    let refused = SCHEMA.parse_with("", &[("name", "a\0b")]).err().unwrap();
    assert!(refused.to_string().contains("name"), "{refused}");
    assert!(
        SCHEMA
            .parse_with("name = \"x\"", &[("no.key", "x")])
            .is_err()
    );
}
