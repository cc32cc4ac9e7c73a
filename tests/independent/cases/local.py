"""Cases of what stays on one machine: bodies of rows, messages between agent and mounter, files of text."""

from typing import Any

from constructions import Fields

from .common import BROKER, Case, NODE, OPERATOR, POD_UID, U32_MAX, U64_MAX, negative, positive, rand, uuid

ALICE = OPERATOR
CREATED, CHANGED = 1_700_000_000_000, 1_700_000_001_000


def rows(construction: str, cases: dict[str, Fields]) -> list[Case]:
    """Named `row` or `row, what is special`."""
    return [positive(construction, name, {"row": name.split(",")[0], **in_}) for name, in_ in cases.items()]


def body_cases() -> list[Case]:
    wrapped, by = "77" * 112, {"created": CREATED, "who": ALICE}
    kek: Fields = {"keyspace": "payments", "epoch": 1, "kek_id": "55" * 16, "state": 1, "wrap_key_id": "66" * 16,
                   "wrapped": wrapped, "created": CREATED, "changed": CREATED, "rate": 0, "values": 0}
    policy: Fields = {"max_age": 7_776_000, "max_wraps": 1 << 32, "automatic": 1, "backup_age": 0}
    version: Fields = {"secret": "11" * 16, "number": 3, "created": CREATED, "who": ALICE, "note": "rotated", "pinned": 0, "fields": [
        {"field": "username", "value": "33" * 16}, {"field": "password", "value": "22" * 16}]}
    backup: Fields = {"id": "66" * 16, "incarnation": 1, "seq": 42, "hash": "44" * 32, "size": 306, "verified": None} | by
    return rows("body", {
        "head": {"keyspace": "payments", "name": "db", "secret": "11" * 16, "state": 1, "active": 2, "latest": 3,
                 "created": CREATED, "changed": CHANGED, "who": ALICE},
        "version": version,
        "version, pinned": version | {"pinned": 1},
        "version, destroyed": version | {"number": 1, "note": "", "fields": []},
        "value-key": {"value": "22" * 16, "secret": "11" * 16, "key_id": "55" * 16, "ct_hash": "88" * 32,
                      "ct_bytes": 44, "wrapped": wrapped},
        "kek": kek,
        "kek, decrypt-only": kek | {"state": 2, "changed": CHANGED, "rate": 500, "values": 7},
        "kek, retired": kek | {"state": 3, "changed": CHANGED},
        "kek, destroyed": kek | {"epoch": 2, "state": 4, "wrap_key_id": "", "wrapped": "", "changed": CHANGED},
        "kek-index": {"kek_id": "55" * 16, "value": "22" * 16},
        "keyspace": {"name": "payments", "state": 1, "epoch": 1} | by | {"max_versions": 20} | policy,
        "keyspace, by hand": {"name": "payments", "state": 1, "epoch": 1} | by | {"max_versions": 20} | policy
        | {"max_age": 0, "max_wraps": 0, "automatic": 0, "backup_age": 2_592_000},
        "keyspace, removing": {"name": "payments", "state": 3, "epoch": 2} | by | {"max_versions": 0} | policy,
        "keyspace, destroyed": {"name": "payments", "state": 2, "epoch": 2} | by | {"max_versions": 20} | policy,
        "request": {"operator": ALICE, "request": uuid("request", 7), "digest": "44" * 32, "result": b"ok".hex(),
                    "created": CREATED},
        "backup": backup,
        "backup, verified": backup | {"incarnation": 2, "verified": {"at": CHANGED, "by": ALICE}},
        "slot": {"slot": "22" * 16, "kind": "key-file", "kdf_parameters": "", "pk": "99" * 32,
                 "blob": rand("slot blob", 144), "number": 1, "enc": rand("slot enc"), "ct": rand("slot ct", 48),
                 "signature": rand("slot signature", 64), "name": "key-file", "created": CREATED, "verified": 0},
        "keyring": {"number": 1, "ct": rand("sealed keyring", 8 + 9 * 54 + 16)},
    })


def identity_cases() -> list[Case]:
    def key(n: int) -> Fields:
        return {"spki": f"{n:02x}" * 32, "serial": f"0{n}" * 16, "not_after": CREATED + n * 3_600_000, "ca": 1 + n // 3}

    identity: Fields = {"id": NODE, "name": "node-a", "current": key(2), "next": key(3),
                        "previous": key(1) | {"superseded": CHANGED}, "joined": CREATED, "renewed": CHANGED,
                        "version": "0.1.0"}
    return rows("identity-body", {
        "identity": identity,
        "identity, just joined": identity | {"current": key(1), "next": None, "previous": None},
        "operator": {"name": "alice", "role": "admin", "current": key(1), "next": None, "previous": None,
                     "created": CREATED, "signed_in": CHANGED},
        "ban": {"id": NODE, "reason": "stolen", "by": ALICE, "at": CREATED},
        "join-token": {"id": "aa" * 16, "hash": "bb" * 32, "cluster": "local", "node_name": "node-a",
                       "node_uid": POD_UID, "not_after": CREATED, "by": ALICE},
    })


def approval_cases() -> list[Case]:
    day, hour = 24 * 3_600_000, 3_600_000
    waiting: Fields = {"node": NODE, "name": "node-a", "spki": rand("asking key"), "evidence": "join-token " + "aa" * 16,
                       "asked": CREATED, "not_after": CREATED + day, "decision": None}
    decision = {"verdict": "approved", "by": ALICE, "at": CHANGED}
    return rows("approval-body", {
        "approval": waiting,
        "approval, approved": waiting | {"not_after": CHANGED + hour, "decision": decision},
        "approval, rejected": waiting | {"decision": decision | {"verdict": "rejected"}},
    })


def registry_cases() -> list[Case]:
    by = {"created": CREATED, "by": ALICE}
    return rows("registry-body", {
        "cluster": {"name": "local", "issuer": "https://issuer.example", "audience": "attache", "source": "folder",
                    "place": ["/srv/cluster"]} | by,
        "cluster, by its API server": {
            "name": "edge", "issuer": "https://kubernetes.default.svc", "audience": "attache", "source": "kubernetes",
            "place": ["https://10.96.0.1:443", "/etc/attache/edge", "attache-system/attache-node-plugin",
                      "attache-enroll"]} | by,
        "cluster, around the broker": {
            "name": "own", "issuer": "https://kubernetes.default.svc", "audience": "attache", "source": "kubernetes",
            "place": ["", "/var/run/secrets/kubernetes.io/serviceaccount", "", "attache-enroll"]} | by,
        "grant": {"name": "shop-web-db", "keyspace": "payments", "secret": "db", "fields": ["username", "password"],
                  "to": "local/shop/web/app"} | by,
        "grant, of every field": {"name": "edge", "keyspace": "payments", "secret": "team/api", "fields": [],
                                  "to": "edge/shop/web/app"} | by,
        "policy": {"name": "non-root", "condition": "non-root", "created": CREATED, "by": BROKER},
    })


def ca_cases() -> list[Case]:
    return rows("ca", {
        "ca": {"certificate": rand("certificate", 120)},
        "incarnation": {"incarnation": 2, "begun": CREATED, "cause": "backup 22d7382d-38c6-4972-a362-5ad546a2803d"},
        "incarnation, by a rollback": {"incarnation": 3, "begun": CHANGED, "cause": "rollback"},
        "chain": {"broker": BROKER, "chain": "33" * 16},
        "ca-before": {"certificate": rand("certificate", 120), "begun": CREATED},
        "readmission": {"not_after": CHANGED, "by": ALICE},
    })


def keyring_record_cases() -> list[Case]:
    def key(purpose: int, state: int = 1, epoch: int = 1) -> Fields:
        return {"purpose": purpose, "state": state, "epoch": epoch, "id": f"{purpose:02x}" * 8 + f"{epoch:02x}" * 8,
                "key": rand(f"key {purpose} {epoch}")}

    first = {"purpose": 1, "state": 1, "epoch": 1, "id": "01" * 16, "key": "77" * 32}
    nine = positive("keyring-record", "nine keys", {"keys": [first, *map(key, range(2, 10))]})
    rotated = positive("keyring-record", "an old row key", {"keys": [key(1, 2), key(1, 1, 2), *map(key, range(2, 10))]})
    record = nine["out"]["record"]

    def put(at: int, bytes_: str, base: str = record) -> str:
        return base[:2 * at] + bytes_ + base[2 * at + len(bytes_):]

    refused = {
        "empty": ("length", ""), "format 2": ("format", put(0, "0002")), "suite 2": ("suite", put(2, "0002")),
        "more keys than there are": ("length", put(4, "0000000a")), "too many": ("count", put(4, "00000401")),
        "a byte more": ("length", record + "00"), "purpose 0": ("purpose", put(8, "00")),
        "purpose 10": ("purpose", put(8 + 8 * 54, "0a")), "state 0": ("state", put(9, "00")),
        "state 3": ("state", put(9, "03")), "epoch 0": ("epoch", put(10, "00000000")),
        "descending": ("order", put(8, "02")), "no active key": ("active", put(9, "02")),
        "two active keys": ("active", put(9, "01", rotated["out"]["record"])),
        "an id twice": ("id", put(14 + 54, "01" * 16)),
    }
    return [nine, rotated, *(negative(name, why, {}, record=bad) for name, (why, bad) in refused.items())]


def request_digest_cases() -> list[Case]:
    # CreateKeyspaceRequest{name: "payments"}, whose name is field 2.
    return [positive("request-digest", "keyspace.create", {"verb": "keyspace.create", "encoded": "12087061796d656e7473"}),
            positive("request-digest", "an empty request", {"verb": "keyspace.create", "encoded": ""})]


# Agent and mounter

WEB: Fields = {"pod": POD_UID, "name": "secrets"}
LONGEST: Fields = {"pod": "u" * 63, "name": "v" * 63}


def ipc_request_cases() -> list[Case]:
    def case(name: str, verb: str, id_: int = 7, memfd: int = 0, volume: Fields | None = WEB) -> Case:
        return positive("ipc-request", name, {"verb": verb, "id": id_, "memfd_bytes": memfd, "volume": volume})

    cases = [case("attach", "attach"), case("write", "write", memfd=213), case("wipe", "wipe"),
             case("detach", "detach", U32_MAX), case("list, from the first", "list", volume=None),
             case("list, after one", "list"), case("stat", "stat", volume=LONGEST),
             case("write, largest size", "write", memfd=U64_MAX)]
    attach, write = cases[0]["out"]["message"], cases[1]["out"]["message"]

    def put(at: int, bytes_: str, base: str = attach) -> str:
        return base[:2 * at] + bytes_ + base[2 * at + len(bytes_):]

    refused = {
        "empty": ("length", ""), "159 bytes": ("length", attach[:-2]), "161 bytes": ("length", attach + "00"),
        "version 0": ("version", put(0, "0000")), "version 2": ("version", put(0, "0002")),
        "verb 0": ("verb", put(2, "0000")), "verb 7": ("verb", put(2, "0007")),
        "a size without a memory file": ("memfd size", put(8, "0000000000000001")),
        "unused bytes": ("zeros", put(31, "01")), "no volume": ("volume", put(32, "00" * 128)),
        "no volume to write to": ("volume", put(32, "00" * 128, write)),
        "a pod without a name": ("volume", put(33, "00", put(97, "00" * 63))),
        "a name without a pod": ("volume", put(32, "00", put(34, "00" * 63))),
        "a length past the field": ("volume", put(32, "40")), "a length too small": ("volume", put(33, "06")),
        "bytes behind the name": ("volume", put(159, "61")),
    }
    return cases + [negative(name, why, {}, message=bad) for name, (why, bad) in refused.items()]


def ipc_answer_cases() -> list[Case]:
    def case(name: str, verb: str, flags: list[str] = [], id_: int = 7, **changes: Any) -> Case:
        nothing: Fields = {"fault": 0, "errno": 0, "stat": None, "volumes": []}
        return positive("ipc-answer", name, {"verb": verb, "id": id_, "flags": flags, **nothing, **changes})

    none = {"files": 0, "seq": 0, "digest_prefix": "00" * 8, "bytes": 0, "file_set": "00" * 32}
    held = {"files": 2, "seq": 42, "digest_prefix": "23be7d9af3be82f2", "bytes": 13, "file_set": rand("file set")}
    full = [{"pod": POD_UID, "name": f"v{n:02}"} for n in range(16)]
    cases = [
        case("hello", "hello", ["noswap", "inode_flags"], 0), case("hello of an old kernel", "hello", [], 0),
        case("attach, made now", "attach", ["made"]), case("attach, there before", "attach"),
        case("write, changed", "write", ["changed"]), case("wipe, not changed", "wipe"),
        case("detach, was mounted", "detach", ["was_mounted"]), case("list, nothing", "list"),
        case("list, one", "list", volumes=[WEB]), case("list, a page of more", "list", ["more"], volumes=full),
        case("stat, not mounted", "stat", stat=none), case("stat, empty", "stat", ["mounted"], stat=none),
        case("stat, whole", "stat", ["mounted", "whole", "generation", "complete"], stat=held),
        case("stat, with leftovers", "stat", ["mounted", "generation", "complete"], stat=held),
        case("stat, damaged", "stat", ["mounted", "generation"], U32_MAX, stat=held | {"seq": U64_MAX}),
        *(case(f"fault {fault}", "write", fault=fault, errno=28 if fault in (7, 11) else 0) for fault in range(1, 12)),
    ]
    by_name = {c["name"]: c for c in cases}
    stat, attach = by_name["stat, whole"], by_name["attach, made now"]
    page, fault = by_name["list, one"], by_name["fault 7"]

    def bent(name: str, why: str, base: Case, at: int, bytes_: str) -> Case:
        message = base["out"]["message"]
        bad = message[:2 * at] + bytes_ + message[2 * at + len(bytes_):]
        return negative(name, why, {k: base["in"][k] for k in ("verb", "id")}, message=bad)

    return cases + [
        bent("version 2", "version", attach, 0, "0002"), bent("another verb", "another request", attach, 2, "0002"),
        bent("another id", "another request", attach, 4, "00000008"), bent("an unknown fault", "fault", attach, 8, "000c"),
        bent("17 volumes", "volumes", page, 10, "0011"), bent("a volume that is none", "volume", page, 10, "0002"),
        bent("a volume that is not counted", "canonical", page, 10, "0000"),
        bent("volumes of an attach", "canonical", attach, 20, "00000001"),
        bent("an errno without a fault", "canonical", attach, 12, "0000001c"),
        bent("an errno past u16", "canonical", fault, 12, "0001001c"),
        bent("flags with a fault", "canonical", fault, 16, "00000001"),
        bent("an unknown flag", "canonical", attach, 16, "00000003"),
        bent("an unknown flag of a stat", "canonical", stat, 16, "0000001f"),
        bent("a generation that is not held", "canonical", stat, 16, "0000000b"),
        bent("unused bytes", "canonical", stat, 127, "01"), bent("bytes behind the page", "canonical", page, 2175, "01"),
        negative("2,175 bytes", "length", {k: stat["in"][k] for k in ("verb", "id")}, message=stat["out"]["message"][:-2]),
        negative("2,177 bytes", "length", {k: stat["in"][k] for k in ("verb", "id")}, message=stat["out"]["message"] + "00"),
    ]


def ipc_generation_cases() -> list[Case]:
    def file(path: str, mode: int = 0o400, gid: int | None = None, value: bytes = b"x", uid: int = 1000) -> Fields:
        return {"path": path, "mode": mode, "uid": uid, "gid": gid, "value": value.hex()}

    def case(name: str, files: list[Fields], metadata: str = "{}\n", seq: int = 42) -> Case:
        return positive("ipc-generation", name, {"incarnation": 1, "seq": seq, "digest": rand("generation digest"),
                                                 "files": files, "metadata": metadata})

    two = case("two files", [file("db/username", 0o440, 2000, b"app"), file("db/password", value=b"hunter2")])
    cases = [two, case("no file", [], ""), case("an empty value", [file("token", 0o444, 0, b"", 0)], "", U64_MAX),
             case("paths that sort by bytes", [file("a-b"), file("a/b"), file("a.b"), file("ключ")])]

    def refuse(name: str, why: str, *files: Fields) -> Case:
        """What an encoder that checks nothing would write."""
        return negative(name, why, {}, memfd=case(name, list(files))["out"]["memfd"])

    whole = two["out"]["memfd"]

    def put(at: int, bytes_: str) -> str:
        return whole[:2 * at] + bytes_ + whole[2 * at + len(bytes_):]

    refused = {
        "empty": ("frame", ""), "another magic": ("frame", put(0, "41")), "format 2": ("frame", put(8, "0002")),
        "a cut head": ("frame", whole[:126]), "reserved bytes": ("frame", put(63, "01")),
        "more files than there are": ("frame", put(10, "0003")), "a byte less": ("frame", whole[:-2]),
        "a byte more": ("frame", whole + "00"), "group flag 2": ("frame", put(64 + 12, "00000002")),
        "257 files": ("limit", put(10, "0101")), "metadata past its limit": ("limit", put(56, "00010001")),
        "a path past the end": ("frame", put(64, "ffff")),
        "a path that is not UTF-8": ("path", put(104, "ff")),
    }
    paths = ["", "/db", "db/", "a//b", ".", "a/./b", "..", "../a", "a/..b", "..data", ".attache.json",
             ".attache.json/x", "a\nb", "a\0b", "a\x7fb", "a/" * 8 + "b", "p" * 256, "/".join(["p" * 255] * 5)]
    return cases + [negative(name, why, {}, memfd=bad) for name, (why, bad) in refused.items()] + [
        *(refuse(f"path {path[:20]!r} of {len(path)}", "path", file(path)) for path in paths),
        refuse("a path twice", "order", file("a"), file("a")),
        refuse("a file that is a folder", "folder", file("a"), file("a/b")),
        refuse("a mode that writes", "mode", file("a", 0o600)), refuse("a set-uid bit", "mode", file("a", 0o4400)),
        refuse("a group bit without a group", "mode", file("a", 0o440)),
        refuse("owner -1", "owner", file("a", uid=U32_MAX)), refuse("group -1", "owner", file("a", gid=U32_MAX)),
        negative("a group without its flag", "owner", {}, memfd=put(64 + 11, "01")),
    ]


def metadata_cases() -> list[Case]:
    files = [{"path": path, "mode": mode, "uid": 1000, "gid": gid, "value": value.hex()} for path, mode, gid, value in (
        ("db/password", 0o400, None, b"hunter2"), ("db/username", 0o440, 2000, b"app"))]
    told = [{"path": "db/password", "ref": "payments/db@2#password", "mode": 0o400},
            {"path": "db/username", "ref": "payments/db@2#username", "mode": 0o440}]
    in_: Fields = {"incarnation": 1, "seq": 42, "digest": rand("generation digest"), "delivered_at": "2026-11-23T10:00:00Z",
                   "files": files, "told": told, "missing": ["payments/api"], "truncated": False}
    escaped = "a \"quoted\" ключ\\"
    return [positive("metadata", "two files, one missing", in_),
            positive("metadata", "nothing", in_ | {"files": [], "told": [], "missing": []}),
            positive("metadata", "a path that JSON escapes", in_ | {
                "files": [files[0] | {"path": escaped}], "told": [told[0] | {"path": escaped}]}),
            positive("metadata", "lists left out", in_ | {"told": [], "missing": [], "truncated": True})]


# Text

def one_time_cases(kind: str, prefix: str, label: str) -> list[Case]:
    in_: Fields = {"id": uuid(f"{label} token"), "secret": rand(f"{label} secret"), "pin": rand(f"{label} pin")}
    case = positive(kind, "random", in_)
    marks = positive(kind, "every byte 0xfb (dashes and underscores)", {
        "id": "fbefbe" * 5 + "fb", "secret": "efbefb" * 10 + "efbe", "pin": "fbefbe" * 10 + "fbef"})
    text, dashes = case["out"]["text"], marks["out"]["text"]
    head = len(prefix)
    refused = {
        "padding": ("length", text + "="), "a newline": ("length", text + "\n"), "one character short": ("length", text[:-1]),
        "prefix of another version": ("prefix", text.replace("-1:", "-2:")), "space before": ("prefix", " " + text),
        "standard alphabet": ("alphabet", text[:head] + dashes[head:].replace("-", "+")),
        "a character of neither alphabet": ("alphabet", text[:30] + "*" + text[31:]),
        "spare bits set": ("spare bits", text[:head] + "A" * 106 + "B"), "empty": ("prefix", ""),
    }
    return [case, positive(kind, "zeros", {"id": "00" * 16, "secret": "00" * 32, "pin": "00" * 32}), marks,
            *(negative(name, why, {}, text=bad) for name, (why, bad) in refused.items())]


def join_token_cases() -> list[Case]:
    return one_time_cases("join-token", "attache-join-1:", "join")


def operator_code_cases() -> list[Case]:
    return one_time_cases("operator-code", "attache-operator-1:", "operator")


def operator_code_body_cases() -> list[Case]:
    fresh: Fields = {"id": "cc" * 16, "hash": "dd" * 32, "name": "bob", "not_after": CREATED, "by": ALICE, "used": None}
    return rows("operator-code-body", {"operator-code": fresh, "operator-code, used": fresh | {"used": "ee" * 32}})


def listen_cases() -> list[Case]:
    return [positive("listen", "two ports", {"grpc": "127.0.0.1:7443", "enroll": "127.0.0.1:7444"}),
            positive("listen", "IPv6", {"grpc": "[::1]:7443", "enroll": "[::]:7444"}),
            positive("listen", "sealed", {"enroll": "127.0.0.1:7444"}),
            positive("listen", "three ports", {"grpc": "127.0.0.1:7443", "enroll": "127.0.0.1:7444", "metrics": "127.0.0.1:9464"})]


def contexts_cases() -> list[Case]:
    context = {"address": "broker.example:7443", "broker": BROKER, "operator": "alice",
               "trust_bundle": "default.trust-bundle.pem", "certificate": "default.crt", "key": "default.key",
               "renew_until": "2026-11-30T10:00:00Z"}
    waiting = {k: v for k, v in context.items() if k != "renew_until"} | {"address": "[::1]:7443"}
    return [positive("contexts", "signed in", {"current": "default", "contexts": {"default": context}}),
            positive("contexts", "an enrollment address of its own",
                     {"current": None, "contexts": {"default": context | {"enroll": "broker.example:7454"}}}),
            positive("contexts", "two, none current", {"current": None, "contexts": {"eu": waiting, "default": context}})]


def page_token_cases() -> list[Case]:
    refused = {"an odd digit": ("hex", "7"), "no hex": ("hex", "zz"), "not UTF-8": ("text", "ff"),
               "longer than any key": ("length", "61" * 513)}
    return [positive("page-token", "a secret", {"last": "payments/db"}),
            positive("page-token", "a name of two bytes a letter", {"last": "ключ"}),
            *(negative(name, why, {}, token=bad) for name, (why, bad) in refused.items())]


def call_id_cases() -> list[Case]:
    boot = "5a0b1c2d" + "77" * 12
    return [positive("call-id", "the first", {"boot": boot, "call": 0}),
            positive("call-id", "the 43rd", {"boot": boot, "call": 42})]


def store_header_cases() -> list[Case]:
    return [positive("store-header", "a new store", {"store_id": uuid("store"), "at": 0}),
            positive("store-header", "after three commits", {"store_id": uuid("store"), "at": 3})]
