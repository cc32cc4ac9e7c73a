//! Tests of the attributes: each of them missing, empty, too long, of the wrong form, with NUL, and unknown.

use proptest::prelude::*;

use super::*;

fn parse_pairs(pairs: &[(&str, &str)]) -> Result<Attributes, PublicReason> {
    let map = pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    parse(&map.collect(), false)
}

fn secrets(list: &str) -> Result<Attributes, PublicReason> {
    parse_pairs(&[("container", "app"), ("secrets", list)])
}

fn files(yaml: &str) -> Result<Attributes, PublicReason> {
    parse_pairs(&[("container", "app"), ("files", yaml)])
}

/// The line that the pod's author sees.
fn refused(outcome: Result<Attributes, PublicReason>) -> String {
    let reason = outcome.expect_err("must be refused");
    assert_eq!(
        reason.kind(),
        super::super::RefusalKind::InvalidArgument,
        "{reason}"
    );
    let line = reason.line();
    assert!(!line.chars().any(char::is_control), "{line:?}");
    line
}

fn references(attributes: &Attributes) -> Vec<String> {
    attributes
        .wanted
        .wanted
        .iter()
        .map(|wanted| wanted.reference.to_string())
        .collect()
}

#[test]
fn a_list_of_secrets() {
    let parsed = secrets("payments/db, payments/api@7,\n web/tls#key").unwrap();
    assert_eq!(parsed.container.as_str(), "app");
    assert_eq!(
        references(&parsed),
        ["payments/db", "payments/api@7", "web/tls#key"]
    );
    assert!(
        parsed
            .wanted
            .wanted
            .iter()
            .all(|wanted| wanted.place == Place::Folder && !wanted.optional)
    );
    assert_eq!(parsed.wanted.mode, Mode::Owner);
    let flat = parse_pairs(&[
        ("container", "app"),
        ("secrets", "payments/db"),
        ("layout", "flat"),
    ]);
    assert_eq!(flat.unwrap().wanted.wanted[0].place, Place::Root);
    let by_name = parse_pairs(&[
        ("container", "app"),
        ("secrets", "payments/db"),
        ("layout", "by-name"),
    ]);
    assert_eq!(by_name.unwrap(), secrets("payments/db").unwrap());
}

#[test]
fn a_list_of_files() {
    let parsed = files(
        "- {path: db/password, ref: payments/db#password, mode: \"0440\"}\n- {path: tls.key, ref: web/tls@7#key, optional: true}\n",
    )
    .unwrap();
    let path = |text| FilePath::parse(text).unwrap();
    let [first, second] = &parsed.wanted.wanted[..] else {
        panic!("{parsed:?}")
    };
    assert_eq!(
        first.place,
        Place::File {
            path: path("db/password"),
            mode: Mode::OwnerAndGroup
        }
    );
    assert_eq!(
        (first.reference.to_string().as_str(), first.optional),
        ("payments/db#password", false)
    );
    assert_eq!(
        second.place,
        Place::File {
            path: path("tls.key"),
            mode: Mode::Owner
        }
    );
    assert_eq!(
        (second.reference.to_string().as_str(), second.optional),
        ("web/tls@7#key", true)
    );
}

#[test]
fn the_default_mode_follows_the_fs_group() {
    let map = |mode: Option<&str>| {
        let pairs = [("container", "app"), ("secrets", "payments/db")];
        let pairs = pairs.into_iter().chain(mode.map(|mode| ("mode", mode)));
        pairs
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .collect::<BTreeMap<_, _>>()
    };
    for (mode, fs_group, expected) in [
        (None, false, Mode::Owner),
        (None, true, Mode::OwnerAndGroup),
        (Some("0400"), true, Mode::Owner),
        (Some("0440"), false, Mode::OwnerAndGroup),
        (Some("440"), false, Mode::OwnerAndGroup),
    ] {
        assert_eq!(
            parse(&map(mode), fs_group).unwrap().wanted.mode,
            expected,
            "{mode:?} {fs_group}"
        );
    }
}

#[test]
fn an_unknown_attribute_is_named_with_the_nearest() {
    for (unknown, nearest) in [
        ("secret", "secrets"),
        ("file", "files"),
        ("Container", "container"),
        ("mod", "mode"),
        ("lay-out", "layout"),
        ("zzzzzzzz", "mode"),
        ("", "mode"),
        ("a\0b\n", "mode"),
        ("csi.storage.k8s.io", "container"),
    ] {
        let line = refused(parse_pairs(&[
            ("container", "app"),
            ("secrets", "payments/db"),
            (unknown, "x"),
        ]));
        let shown = Quoted::new(unknown);
        assert!(
            line.starts_with(&format!(
                "volumeAttributes.{shown} is not known; the nearest is "
            )),
            "{line}"
        );
        if !unknown.starts_with("zz")
            && !unknown.is_empty()
            && !unknown.contains('\0')
            && !unknown.contains('.')
        {
            assert!(line.ends_with(nearest), "{line}");
        }
    }
    let line = refused(parse_pairs(&[
        ("container", "app"),
        ("secrets", "payments/db"),
        (&"x".repeat(1 << 20), "x"),
    ]));
    assert!(line.len() < 300, "{line}");
}

#[test]
fn uid_is_refused_by_name_until_it_comes() {
    let line = refused(parse_pairs(&[
        ("container", "app"),
        ("secrets", "payments/db"),
        ("uid", "1000"),
    ]));
    assert_eq!(
        line,
        "volumeAttributes.uid is not available yet; set securityContext.runAsUser on the container"
    );
}

#[test]
fn kubelets_own_keys_are_passed_over() {
    let parsed = parse_pairs(&[
        ("container", "app"),
        ("secrets", "payments/db"),
        ("csi.storage.k8s.io/pod.name", "another"),
        ("csi.storage.k8s.io/serviceAccount.tokens", "{}"),
    ]);
    assert_eq!(parsed.unwrap(), secrets("payments/db").unwrap());
}

#[test]
fn container_rows() {
    assert_eq!(
        refused(parse_pairs(&[("secrets", "payments/db")])),
        "volumeAttributes.container is missing; name the container that mounts the volume"
    );
    for bad in [
        "",
        " app",
        "App",
        "a/b",
        "app\0",
        "a.b",
        "-a",
        &"a".repeat(64),
        "app,sidecar",
    ] {
        let line = refused(parse_pairs(&[
            ("container", bad),
            ("secrets", "payments/db"),
        ]));
        assert!(
            line.starts_with("volumeAttributes.container the container "),
            "{line}"
        );
    }
}

#[test]
fn secrets_rows() {
    assert_eq!(
        refused(parse_pairs(&[("container", "app")])),
        "volumeAttributes.secrets is missing; list the secrets, or exact files in files"
    );
    for bad in [
        "",
        " ",
        ",",
        "payments/db,",
        ",payments/db",
        "payments/db,,web/tls",
        "payments",
        "/db",
        "payments/",
        "Payments/db",
        "payments/db@0",
        "payments/db@-1",
        "payments/db@x",
        "payments/db#",
        "payments/db#.x",
        "payments/db@",
        "payments/db#a#b",
        "payments/db\0",
        "../db",
        "a/b/c/d/e",
        "payments/db web/tls",
        "payments/db;web/tls",
        "*",
        "payments/*",
        "@prod/x",
    ] {
        let line = refused(secrets(bad));
        assert!(
            line.starts_with("volumeAttributes.secrets, reference "),
            "{bad:?}: {line}"
        );
    }
    let long = "payments/db,".repeat(2000);
    assert_eq!(
        refused(secrets(&long)),
        "volumeAttributes.secrets has more than 16384 bytes"
    );
    let blanks = " ".repeat(MAX_ATTRIBUTE_BYTES - "payments/db".len());
    assert!(secrets(&format!("payments/db{blanks}")).is_ok());
    let many: Vec<String> = (0..65).map(|n| format!("payments/s{n}")).collect();
    assert!(secrets(&many[..64].join(",")).is_ok());
    assert_eq!(
        refused(secrets(&many.join(","))),
        "volumeAttributes.secrets has more than 64 references"
    );
    assert_eq!(
        refused(parse_pairs(&[
            ("container", "app"),
            ("secrets", "payments/db"),
            ("files", "[]")
        ])),
        "volumeAttributes.files stands beside secrets; keep one of the two"
    );
}

#[test]
fn secrets_that_would_share_a_path_name_both_and_the_mend() {
    assert_eq!(
        refused(secrets("payments/db, web/db")),
        "payments/db and web/db would share the path \"db\"; give each file a path of its own in volumeAttributes.files"
    );
    assert_eq!(
        refused(secrets("web/tls, payments/a/db, payments/b/db")),
        "payments/a/db and payments/b/db would share the path \"db\"; give each file a path of its own in volumeAttributes.files"
    );
    assert!(refused(secrets("payments/db@1, payments/db@2")).contains("would share the path"));
    for twice in [
        "payments/db, payments/db",
        "payments/db#a, payments/db",
        "payments/db#a, payments/db#a",
        "payments/db@1,payments/db@1#x",
    ] {
        assert!(
            refused(secrets(twice)).contains("twice; remove one"),
            "{twice}"
        );
    }
    assert!(secrets("payments/db#a, payments/db#b").is_ok());
    let flat = |list| parse_pairs(&[("container", "app"), ("secrets", list), ("layout", "flat")]);
    assert!(
        flat("payments/db, web/db").is_ok(),
        "flat: known only with the fields"
    );
    assert!(flat("payments/db, payments/db").is_err());
}

#[test]
fn layout_rows() {
    for bad in [
        "",
        "By-name",
        "byname",
        "flat ",
        "tree",
        "flat\0",
        &"f".repeat(1 << 16),
    ] {
        let line = refused(parse_pairs(&[
            ("container", "app"),
            ("secrets", "payments/db"),
            ("layout", bad),
        ]));
        assert_eq!(line, "volumeAttributes.layout must be by-name or flat");
    }
    let line = refused(parse_pairs(&[
        ("container", "app"),
        ("files", "[]"),
        ("layout", "flat"),
    ]));
    assert!(
        line.starts_with("volumeAttributes.layout goes with secrets"),
        "{line}"
    );
}

#[test]
fn mode_rows() {
    for bad in [
        "",
        "0",
        "400 ",
        "0o400",
        "0x100",
        "256",
        "-400",
        "+400",
        "00400",
        "0500",
        "0600",
        "0444",
        "0404",
        "4400",
        "0040",
        "0000",
        "u=r",
        "0400\0",
        "٠٤٠٠",
        &"0".repeat(1 << 16),
    ] {
        let line = refused(parse_pairs(&[
            ("container", "app"),
            ("secrets", "payments/db"),
            ("mode", bad),
        ]));
        assert!(
            line.starts_with("volumeAttributes.mode must be \"0400\""),
            "{line}"
        );
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "one table")]
fn files_rows() {
    for (what, yaml, says) in [
        ("empty", "", "files must be a list"),
        (
            "no list",
            "{path: a, ref: payments/db#x}",
            "files must be a list",
        ),
        ("empty list", "[]", "files must have 1 to 256 entries"),
        ("a text", "[a]", "files[0] must be {path"),
        ("null", "[~]", "files[0] must be {path"),
        ("nested", "[[{path: a}]]", "files[0] must be {path"),
        (
            "no path",
            "[{ref: payments/db#x}]",
            "files[0].path is missing",
        ),
        ("no ref", "[{path: a}]", "files[0].ref is missing"),
        (
            "path a number",
            "[{path: 1, ref: payments/db#x}]",
            "files[0].path must be text",
        ),
        (
            "path null",
            "[{path: ~, ref: payments/db#x}]",
            "files[0].path must be text",
        ),
        (
            "path a list",
            "[{path: [a], ref: payments/db#x}]",
            "files[0].path must be text",
        ),
        (
            "ref a map",
            "[{path: a, ref: {x: y}}]",
            "files[0].ref must be text",
        ),
        (
            "ref empty",
            "[{path: a, ref: ''}]",
            "files[0].ref the secret",
        ),
        (
            "ref without field",
            "[{path: a, ref: payments/db}]",
            "files[0].ref needs a field: payments/db#FIELD",
        ),
        (
            "ref malformed",
            "[{path: a, ref: 'payments/db#x y'}]",
            "files[0].ref the field",
        ),
        (
            "mode unknown",
            "[{path: a, ref: payments/db#x, mode: '0777'}]",
            "files[0].mode must be",
        ),
        (
            "mode a number",
            "[{path: a, ref: payments/db#x, mode: 440}]",
            "files[0].mode must be text",
        ),
        (
            "optional a text",
            "[{path: a, ref: payments/db#x, optional: 'true'}]",
            "files[0].optional must be",
        ),
        (
            "optional a number",
            "[{path: a, ref: payments/db#x, optional: 1}]",
            "files[0].optional must be",
        ),
        (
            "optional yes",
            "[{path: a, ref: payments/db#x, optional: yes}]",
            "files[0].optional must be",
        ),
        (
            "unknown key",
            "[{path: a, ref: payments/db#x, mod: '0400'}]",
            "files[0] has the unknown key \"mod\"; the nearest is mode",
        ),
        (
            "second entry",
            "[{path: a, ref: payments/db#x}, {path: b}]",
            "files[1].ref is missing",
        ),
        (
            "anchor",
            "[{path: &p a, ref: payments/db#x}]",
            "files is not plain YAML",
        ),
        (
            "alias",
            "- &e {path: a, ref: payments/db#x}\n- *e",
            "files is not plain YAML",
        ),
        (
            "merge",
            "[{<<: {path: a}, ref: payments/db#x}]",
            "files is not plain YAML",
        ),
        (
            "tag",
            "[{path: !x a, ref: payments/db#x}]",
            "files is not plain YAML",
        ),
        (
            "twice",
            "[{path: a, path: b, ref: payments/db#x}]",
            "files is not plain YAML",
        ),
        (
            "two documents",
            "[{path: a, ref: payments/db#x}]\n---\n[]",
            "files is not plain YAML",
        ),
        (
            "deep",
            "[{path: [[[[a]]]], ref: payments/db#x}]",
            "files is not plain YAML",
        ),
        ("NUL", "[{path: \"a\0\", ref: payments/db#x}]", "files"),
        (
            "escaped NUL",
            "[{path: \"a\\0\", ref: payments/db#x}]",
            "files[0].path must not have a control character",
        ),
    ] {
        let line = refused(files(yaml));
        assert!(
            line.starts_with(&format!("volumeAttributes.{says}")),
            "{what}: {line}"
        );
    }
    assert_eq!(
        refused(files(&" ".repeat(MAX_ATTRIBUTE_BYTES + 1))),
        "volumeAttributes.files has more than 16384 bytes"
    );
    let entry = |n: usize| format!("- {{path: f{n}, ref: a/b#c}}\n");
    let many: String = (0..256).map(entry).collect();
    assert!(files(&many).is_ok());
    assert_eq!(
        refused(files(&(many + &entry(256)))),
        "volumeAttributes.files must have 1 to 256 entries"
    );
}

#[test]
fn paths_that_leave_the_volume_are_refused() {
    for bad in [
        "/etc/passwd",
        "..",
        "../x",
        "a/../b",
        "a/..",
        "./a",
        "a/.",
        ".",
        "a//b",
        "a/",
        "..data",
        "a/..x",
        ".attache.json",
        ".attache.json/x",
        "",
    ] {
        let line = refused(files(&format!("[{{path: '{bad}', ref: payments/db#x}}]")));
        assert!(
            line.starts_with("volumeAttributes.files[0].path must "),
            "{bad}: {line}"
        );
    }
}

#[test]
fn files_that_would_share_a_path_name_both() {
    let line = refused(files(
        "[{path: a, ref: payments/db#x}, {path: a, ref: web/tls#y}]",
    ));
    assert!(
        line.starts_with("payments/db#x and web/tls#y would share the path \"a\""),
        "{line}"
    );
    let line = refused(files(
        "[{path: a/b, ref: payments/db#x}, {path: a, ref: web/tls#y}]",
    ));
    assert!(
        line.starts_with("payments/db#x and web/tls#y would share the path \"a\""),
        "{line}"
    );
    assert!(files("[{path: a/b, ref: payments/db#x}, {path: a.b, ref: web/tls#y}, {path: a-b, ref: w/x#y}]").is_ok());
    assert!(
        files("[{path: a, ref: payments/db#x}, {path: b, ref: payments/db#x}]").is_ok(),
        "one field, two files"
    );
}

proptest! {
    /// Whatever a pod writes, the answer is a set of canonical paths, or one short line.
    #[test]
    fn anything_is_answered(
        container in "\\PC{0,20}|app",
        list in "\\PC{0,60}|([a-z/#@,. ]{0,40})",
        yaml in "\\PC{0,80}|(\\[\\{path: [a-z./]{0,12}, ref: [a-z/#]{0,12}\\}\\])",
        which in 0..3,
    ) {
        let pairs = match which {
            0 => vec![("container", container.as_str()), ("secrets", &list)],
            1 => vec![("container", "app"), ("files", &yaml)],
            _ => vec![("container", "app"), ("secrets", "a/b"), (list.as_str(), &yaml)],
        };
        match parse_pairs(&pairs) {
            Ok(parsed) => {
                prop_assert!(!parsed.wanted.wanted.is_empty());
                for wanted in &parsed.wanted.wanted {
                    if let Place::File { path, .. } = &wanted.place {
                        let text = path.as_str();
                        prop_assert!(!text.starts_with('/') && !text.split('/').any(|part| part.is_empty() || part == "." || part.starts_with("..")));
                    }
                }
            }
            Err(reason) => {
                let line = reason.line();
                prop_assert!(line.len() <= super::super::MAX_REASON_BYTES);
                prop_assert!(!line.chars().any(|c| c.is_control() || c == '\u{2028}'), "{:?}", line);
            }
        }
    }
}
