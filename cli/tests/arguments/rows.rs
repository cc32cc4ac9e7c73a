//! The table: what each argument takes, and the bad inputs of each kind of argument.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

const VKEY: &str = "attache/fc76c060-32de-4792-b985-c807f06a78b6/909be3f9-a05b-68fc-0d36-39dc0993cbda+43217279+AR6VtMUgc0ZEd8NTcCghLupoqb+5nWEkSMGOxDjdtLQQ";

/// What one argument takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Secret,
    SecretVersion,
    SecretField,
    Keyspace,
    Key,
    Grant,
    Cluster,
    Slot,
    NodeName,
    Node,
    Operator,
    Workload,
    Context,
    Number,
    Rate,
    Issuer,
    Audience,
    Reason,
    BrokerFolder,
    ApiServer,
    Account,
    Address,
    BrokerId,
    Path,
    Vkey,
    Decision,
    Approval,
    Code,
    Choice,
    Flag,
    Field,
    Literal,
}
use Kind::*;

/// One row an argument: the command ("" for every command), the argument's id, and what it takes.
pub(crate) const ROWS: &[(&str, &str, Kind)] = &[
    ("", "context", Context),
    ("", "output", Choice),
    ("", "no_color", Flag),
    ("", "quiet", Flag),
    ("secret put", "path", Secret),
    ("secret put", "fields", Field),
    ("secret put", "literal", Literal),
    ("secret put", "replace", Flag),
    ("secret put", "expect_version", Number),
    ("secret put", "trim_newline", Flag),
    ("secret put", "dry_run", Flag),
    ("secret list", "keyspace", Keyspace),
    ("secret show", "path", Secret),
    ("secret versions", "path", Secret),
    ("secret rollback", "reference", SecretVersion),
    ("secret rollback", "expect_version", Number),
    ("secret rollback", "dry_run", Flag),
    ("secret destroy", "reference", SecretVersion),
    ("secret destroy", "yes", Flag),
    ("secret destroy", "dry_run", Flag),
    ("keyspace create", "name", Keyspace),
    ("keyspace create", "dry_run", Flag),
    ("keyspace destroy", "name", Keyspace),
    ("keyspace destroy", "yes", Flag),
    ("keyspace destroy", "dry_run", Flag),
    ("key list", "keyspace", Keyspace),
    ("key status", "keyspace", Keyspace),
    ("key status", "wait", Flag),
    ("key rotate", "keyspace", Keyspace),
    ("key rotate", "root", Flag),
    ("key rotate", "rate", Rate),
    ("key rotate", "no_wait", Flag),
    ("key rotate", "dry_run", Flag),
    ("key destroy", "key", Key),
    ("key destroy", "dry_run", Flag),
    ("key destroy", "yes", Flag),
    ("grant add", "name", Grant),
    ("grant add", "reference", SecretField),
    ("grant add", "to", Workload),
    ("grant add", "dry_run", Flag),
    ("grant list", "keyspace", Keyspace),
    ("grant show", "name", Grant),
    ("grant remove", "name", Grant),
    ("grant remove", "dry_run", Flag),
    ("grant remove", "yes", Flag),
    ("cluster add", "name", Cluster),
    ("cluster add", "issuer", Issuer),
    ("cluster add", "audience", Audience),
    ("cluster add", "folder", BrokerFolder),
    ("cluster add", "api_server", ApiServer),
    ("cluster add", "credentials", BrokerFolder),
    ("cluster add", "in_cluster", Flag),
    ("cluster add", "enroll_service_account", Account),
    ("cluster add", "enroll_audience", Audience),
    ("cluster add", "dry_run", Flag),
    ("cluster show", "name", Cluster),
    ("cluster remove", "name", Cluster),
    ("cluster remove", "dry_run", Flag),
    ("cluster remove", "yes", Flag),
    ("node list", "cluster", Cluster),
    ("node join-token", "cluster", Cluster),
    ("node join-token", "node", NodeName),
    ("node join-token", "dry_run", Flag),
    ("node ban", "node", Node),
    ("node ban", "reason", Reason),
    ("node ban", "dry_run", Flag),
    ("node ban", "yes", Flag),
    ("node unban", "node", Node),
    ("node unban", "reason", Reason),
    ("node unban", "dry_run", Flag),
    ("node readmit", "all", Flag),
    ("node readmit", "reason", Reason),
    ("node readmit", "dry_run", Flag),
    ("node readmit", "yes", Flag),
    ("operator add", "name", Operator),
    ("operator add", "dry_run", Flag),
    ("operator ban", "name", Operator),
    ("operator ban", "reason", Reason),
    ("operator ban", "dry_run", Flag),
    ("operator ban", "yes", Flag),
    ("operator unban", "name", Operator),
    ("operator unban", "reason", Reason),
    ("operator unban", "dry_run", Flag),
    ("approval show", "id", Approval),
    ("approval approve", "id", Approval),
    ("approval approve", "reason", Reason),
    ("approval approve", "dry_run", Flag),
    ("approval approve", "yes", Flag),
    ("approval reject", "id", Approval),
    ("approval reject", "reason", Reason),
    ("approval reject", "dry_run", Flag),
    ("slot add key-file", "out", Path),
    ("slot add key-file", "name", Slot),
    ("slot add key-file", "dry_run", Flag),
    ("slot add passphrase", "passphrase_file", Path),
    ("slot add passphrase", "name", Slot),
    ("slot add passphrase", "dry_run", Flag),
    ("slot add kms", "name", Slot),
    ("slot add kms", "dry_run", Flag),
    ("slot verify", "slot", Slot),
    ("slot verify", "passphrase_file", Path),
    ("slot verify", "key_file", Path),
    ("slot verify", "dry_run", Flag),
    ("slot remove", "slot", Slot),
    ("slot remove", "dry_run", Flag),
    ("slot remove", "yes", Flag),
    ("audit tail", "lines", Number),
    ("audit tail", "follow", Flag),
    ("audit verify", "dir", Path),
    ("audit verify", "vkey", Vkey),
    ("audit verify", "at_least", Path),
    ("audit verify", "save", Path),
    ("backup create", "file", Path),
    ("backup create", "reason", Reason),
    ("backup create", "dry_run", Flag),
    ("backup verify", "file", Path),
    ("backup verify", "vkey", Vkey),
    ("backup verify", "offline", Flag),
    ("login", "new", Operator),
    ("login", "broker", Address),
    ("login", "broker_id", BrokerId),
    ("login", "trust_bundle", Path),
    ("login", "csr", Path),
    ("login", "code", Code),
    ("login", "enroll", Address),
    ("login", "finish", Path),
    ("why", "decision", Decision),
    ("completion", "shell", Choice),
];

/// In place of a value: the flag as it is.
pub(crate) const GIVEN: &str = "(given)";

/// The words without which a command is not whole, by argument id.
pub(crate) fn required(path: &str) -> Vec<(&'static str, &'static str)> {
    match path {
        "secret put" => vec![("path", "payments/db"), ("fields", "password")],
        "secret show" | "secret versions" => vec![("path", "payments/db")],
        "secret rollback" | "secret destroy" => vec![("reference", "payments/db")],
        "keyspace create" | "keyspace destroy" => vec![("name", "payments")],
        "key rotate" => vec![("keyspace", "payments")],
        "key destroy" => vec![("key", "payments@1")],
        "grant add" => vec![
            ("name", "web-db"),
            ("reference", "payments/db"),
            ("to", "local/shop/web/app"),
        ],
        "grant show" | "grant remove" => vec![("name", "web-db")],
        "cluster add" => vec![
            ("name", "local"),
            ("issuer", "https://issuer.example"),
            ("audience", "attache"),
            ("folder", "/srv/cluster"),
        ],
        "cluster show" | "cluster remove" => vec![("name", "local")],
        "node join-token" => vec![("cluster", "local"), ("node", "node-a")],
        "node ban" | "node unban" => vec![("node", "local/node-a")],
        "node readmit" => vec![("all", GIVEN)],
        "operator add" | "operator ban" | "operator unban" => vec![("name", "ada")],
        "approval show" | "approval approve" | "approval reject" => {
            vec![("id", "7f3a9c125a0c1de0")]
        }
        "slot add key-file" => vec![("out", "slot.key")],
        "slot verify" | "slot remove" => vec![("slot", "key-file")],
        "backup create" | "backup verify" => vec![("file", "store.backup")],
        "why" => vec![("decision", "7f3a9c12")],
        "completion" => vec![("shell", "bash")],
        _ => vec![],
    }
}

/// What must stand beside an argument for it to mean something.
pub(crate) fn beside(path: &str, id: &str) -> Vec<(&'static str, &'static str)> {
    match (path, id) {
        (
            "cluster add",
            "api_server" | "credentials" | "enroll_service_account" | "enroll_audience",
        ) => {
            vec![
                ("name", "local"),
                ("audience", "attache"),
                ("api_server", "https://10.96.0.1:443"),
                ("credentials", "/etc/attache/cluster"),
                (
                    "enroll_service_account",
                    "attache-system/attache-node-plugin",
                ),
            ]
        }
        ("cluster add", "in_cluster") => vec![("name", "local"), ("audience", "attache")],
        ("backup verify", "offline") => vec![("file", "store.backup"), ("vkey", VKEY)],
        ("audit verify", "dir") => vec![("vkey", VKEY)],
        ("login", "new" | "broker" | "broker_id" | "trust_bundle" | "csr") => vec![
            ("new", "ada"),
            ("broker", "127.0.0.1:7443"),
            ("broker_id", "spiffe://example/broker/broker-0"),
            ("trust_bundle", "bundle.pem"),
            ("csr", "ada.csr"),
        ],
        ("login", "code" | "enroll") => vec![
            ("new", "ada"),
            ("broker", "127.0.0.1:7443"),
            ("code", "@code"),
            ("enroll", "127.0.0.1:7444"),
        ],
        _ => required(path),
    }
}

/// An input, or why there is none of this kind.
pub(crate) enum Input {
    Bad(OsString),
    None(&'static str),
}
use Input::{Bad, None as NoInput};

fn bad(text: &str) -> Input {
    Bad(text.into())
}

pub(crate) fn good(kind: Kind, id: &str) -> &'static str {
    match kind {
        Secret | SecretVersion => "payments/eu/db",
        SecretField => "payments/db#password",
        Keyspace => "payments",
        Key => "payments@12",
        Grant | Cluster | Slot => "a-name.1",
        NodeName => "node-a.example",
        Node => "spiffe://example/node/local/5a0c1de0",
        Operator => "ada",
        Workload => "@prod/shop/web/app",
        Context => "default",
        Number | Rate => "3",
        Issuer => "https://issuer.example",
        Audience => "attache",
        Reason => "stolen, and found again",
        BrokerFolder => "/srv/cluster",
        ApiServer => "https://10.96.0.1:443",
        Account => "attache-system/attache-node-plugin",
        Address => "[::1]:7443",
        BrokerId => "spiffe://example/broker/broker-0",
        Path => "some/file",
        Vkey => VKEY,
        Decision => "7f3a9c12",
        Approval => "7f3a9c125a0c1de0",
        Code => "@some/file",
        Choice if id == "output" => "json",
        Choice => "zsh",
        Flag => "",
        Field => "password=@/file",
        Literal => "token=a value",
    }
}

/// The five kinds of bad input for an argument, each with its name. Missing and unknown are tests of their own.
pub(crate) fn inputs(kind: Kind) -> Vec<(&'static str, Input)> {
    let long = "a".repeat(5000);
    let empty = match kind {
        Literal => bad("=value"),
        _ => bad(""),
    };
    let too_long = match kind {
        Literal | Field => bad(&format!("{long}=@x")),
        Issuer => bad(&format!("https://{long}")),
        BrokerFolder => bad(&format!("/{long}")),
        ApiServer => bad(&format!("https://{long}")),
        Account => bad(&format!("attache-system/{long}")),
        Secret | SecretVersion | SecretField => bad(&format!("payments/{long}")),
        Key => bad(&format!("{long}@1")),
        Workload => bad(&format!("local/shop/web/{long}")),
        Node => bad(&format!("local/{long}")),
        Address => bad(&format!("{long}:7443")),
        BrokerId => bad(&format!("spiffe://example/broker/{long}")),
        Vkey => bad(&format!("{VKEY}{long}")),
        Number | Rate => bad(&"9".repeat(40)),
        Code => bad(&format!("@{long}")),
        _ => bad(&long),
    };
    let wrong_type = match kind {
        Secret => bad("payments/db@3"),
        SecretVersion => bad("payments/db@x"),
        SecretField => bad("payments/db@3#x"),
        Keyspace | Grant | Cluster | Slot => bad("Not A Name"),
        Key => bad("payments"),
        NodeName => bad("Node_A"),
        Node => bad("spiffe://example/operator/ada"),
        Operator | Context => bad("a/b"),
        Workload => bad("local/shop/web"),
        Number | Rate => bad("-1"),
        Issuer => bad("issuer.example"),
        Audience | Reason => NoInput("any text is one"),
        BrokerFolder => bad("relative/folder"),
        ApiServer => bad("http://10.96.0.1:443"),
        Account => bad("attache-node-plugin"),
        Address => bad("127.0.0.1"),
        BrokerId => bad("spiffe://example/operator/ada"),
        Path => NoInput("any bytes are a path"),
        Vkey => bad("attache/x+00000000+AAAA"),
        Decision => bad("7F3A9C12"),
        Approval => bad("7f3a9c12"),
        Code => bad("attache-operator-1:AAAA"),
        Choice => bad("nonesuch"),
        Flag => bad("yes"),
        Field => bad("password=value"),
        Literal => bad("password"),
    };
    let non_utf8 = match kind {
        Path => NoInput("a path may be in any encoding"),
        Literal | Field => Bad(OsString::from_vec(b"f\xff=@x".to_vec())),
        _ => Bad(OsString::from_vec(vec![b'a', 0xff])),
    };
    let nul = match kind {
        Literal | Field => bad("f\0=@x"),
        Issuer => bad("https://a\0b"),
        BrokerFolder => bad("/a\0b"),
        ApiServer => bad("https://a\0b"),
        Account => bad("a/b\0"),
        _ => bad("a\0b"),
    };
    vec![
        ("empty", empty),
        ("too long", too_long),
        ("wrong type", wrong_type),
        ("non-UTF-8", non_utf8),
        ("NUL", nul),
    ]
}
