"""Cases of certificates, requests, the agent's folder, and the files of a release."""

from attache_formats import certificate, der, file_list
from constructions import Fields

from .common import BROKER, Case, NODE, OPERATOR, STORE, U32_MAX, U64_MAX, flip, negative, positive, rand, uuid

# 2026-11-23T12:00:00Z
MADE = 1_795_435_200
# 2045-06-01T00:00:00Z: the end is past 2050.
LATE = 2_379_888_000
DOMAIN = "example.internal"
STORE_TEXT = f"{STORE[:8]}-{STORE[8:12]}-{STORE[12:16]}-{STORE[16:20]}-{STORE[20:]}"


def scalar(label: str) -> str:
    return rand(f"leaf key {label}")


def ca_case(name: str = "a store's", label: str = "CA", made: int = MADE, **changes: str) -> Case:
    in_: Fields = {"seed": rand(f"seed of {label}"), "trust_domain": DOMAIN, "name": f"Attaché CA {STORE_TEXT}", "made": made,
                   "random": rand(f"serial of {label}", 16)}
    return positive("certificate-ca", name, in_ | changes)


def ca_cases() -> list[Case]:
    case = ca_case()
    whole = case["out"]["certificate"]
    leaf = leaf_case("a node's", NODE)["out"]["certificate"]
    return [case, ca_case("one that ends past 2050", "late CA", LATE),
            ca_case("a serial of ones", "CA", random="ff" * 16), ca_case("a serial of zeros", "CA", random="00" * 16),
            negative("a flipped bit of the signature", "signature", {}, certificate=flip(whole, -1)),
            negative("a leaf", "profile", {}, certificate=leaf),
            negative("a byte more", "DER", {}, certificate=whole + "00")]


def request_of(label: str) -> str:
    return certificate.request(bytes.fromhex(scalar(label))).hex()


def leaf_case(name: str, id_: str, label: str = "node", made: int = MADE, ca: Case | None = None) -> Case:
    ca = ca or ca_case()
    return positive("certificate-leaf", name, {
        "seed": ca["in"]["seed"], "ca": ca["out"]["certificate"], "request": request_of(label), "id": id_, "made": made,
        "random": rand(f"serial of {label}", 16)})


def leaf_cases() -> list[Case]:
    ca, other = ca_case(), ca_case(label="another CA")
    node = leaf_case("a node's", NODE)
    end = MADE + certificate.CA_LENGTH
    given = {key: node["in"][key] for key in ("ca", "made")}
    whole = node["out"]["certificate"]
    seed = bytes.fromhex(ca["in"]["seed"])
    issuer, good = certificate.open_ca(bytes.fromhex(ca["out"]["certificate"])), certificate.parse(bytes.fromhex(whole))
    use = certificate.EXTENDED_USAGE

    def bent(name: str, at: int, *extensions: bytes) -> Case:
        """Signed by the CA, with other extensions in the place of one."""
        changed = [*good.extensions[:at], *extensions, *good.extensions[at + 1:]]
        tbs = certificate.tbs(good.serial, issuer.subject, good.begin, good.end, good.subject, good.spki, changed)
        return negative(name, "profile", given, certificate=certificate.signed(seed, tbs).hex())

    return [
        node, leaf_case("an operator's", OPERATOR, "operator"), leaf_case("a broker's", BROKER, "broker"),
        leaf_case("made before its CA's clock", NODE, made=MADE - 30), leaf_case("near its CA's end", NODE, made=end - 600),
        negative("a flipped bit of the signature", "signature", given, certificate=flip(whole, -1)),
        negative("a flipped bit of the key", "signature", given, certificate=flip(whole, len(whole) // 4)),
        negative("another CA of the same name", "signature", given | {"ca": other["out"]["certificate"]}, certificate=whole),
        negative("the CA itself", "profile", given, certificate=ca["out"]["certificate"]),
        bent("no name", 1), bent("two names", 1, certificate.uris(True, NODE, OPERATOR)),
        bent("a name of no kind", 1, certificate.uris(True, f"spiffe://{DOMAIN}/pod/x")),
        bent("a name that is no SPIFFE ID", 1, certificate.uris(True, "https://example.internal/node/local/x")),
        bent("keyUsage of a CA", 2, certificate.extension(certificate.KEY_USAGE, True, der.bits(b"\x86", 1))),
        bent("no use", 3, certificate.extension(use, False, der.sequence(der.oid("1.3.6.1.5.5.7.3.4")))),
        bent("serverAuth alone", 3, certificate.extension(use, False, der.sequence(certificate.SERVER))),
        bent("CA:true", 5, certificate.extension(certificate.CONSTRAINTS, True, der.sequence(der.tlv(0x01, b"\xff")))),
    ]


def request_cases() -> list[Case]:
    case = positive("certificate-request", "a node's", {"key": scalar("node")})
    small = positive("certificate-request", "a small key", {"key": "00" * 31 + "05"})
    whole = case["out"]["request"]
    info, *rest = der.items(bytes.fromhex(whole))
    stolen = der.sequence(bytes.fromhex(small["out"]["info"]), *rest)
    return [case, small,
            negative("another key's signature", "signature", {}, request=stolen.hex()),
            negative("a flipped bit of the signature", "signature", {}, request=flip(whole, -1)),
            negative("signed by another algorithm", "algorithm", {}, request=der.sequence(
                info, der.sequence(der.oid("1.2.840.10045.4.3.3")), rest[1]).hex()),
            negative("a byte more", "DER", {}, request=whole + "00"),
            negative("4,097 bytes", "length", {}, request=whole + "00" * (4097 - len(whole) // 2))]


def agent_folder_cases() -> list[Case]:
    ca, node = ca_case(), leaf_case("a node's", NODE)
    other = ca_case(label="another CA")["out"]["certificate"]
    whole = ca["out"]["certificate"]
    in_: Fields = {"key": scalar("node"), "next": None, "chain": [node["out"]["certificate"], whole], "bundle": [whole],
                   "broker": BROKER, "made": MADE}

    def case(name: str, **changes: object) -> Case:
        return positive("agent-folder", name, in_ | changes)

    good = case("joined")
    given = good["out"] | {"made": MADE}
    text = given["node.crt"]

    def refuse(name: str, why: str, file: str, text_: str) -> Case:
        return negative(name, why, given, **{file: text_})

    return [
        good, case("a renewal is under way", next=scalar("next")), case("two CAs", bundle=[whole, other]),
        case("cut off before the key's rename", key=scalar("before"), next=scalar("node")),
        refuse("another key", "key", "key.pem", certificate.key_pem(bytes.fromhex(scalar("other")))),
        refuse("a key of another kind", "PEM", "key.pem", given["key.pem"].replace("PRIVATE", "EC PRIVATE")),
        refuse("no certificate", "PEM", "node.crt", ""), refuse("half a certificate", "PEM", "node.crt", text[:len(text) // 4]),
        refuse("a key in the bundle", "PEM", "bundle.pem", given["bundle.pem"] + given["key.pem"]),
        refuse("another CA", "signature", "bundle.pem", der.pem("CERTIFICATE", bytes.fromhex(other))),
        refuse("no broker", "broker", "broker-id", "\n"), refuse("a broker that is a node", "broker", "broker-id", f"{NODE}\n"),
        refuse("a certificate of another key", "key", "node.crt", der.pem("CERTIFICATE", bytes.fromhex(
            leaf_case("another's", NODE, "operator")["out"]["certificate"]))),
    ]


def file_list_cases() -> list[Case]:
    password, username = uuid("value of password"), uuid("value of username")

    def file(path: str, mode: int = 0o400, value: int = 0) -> Fields:
        return {"path": path, "mode": mode, "value": value}

    def case(name: str, files: list[Fields], values: list[str], gid: int | None = None, uid: int = 1000, **order: int) -> Case:
        return positive("file-list", name, {"incarnation": 1, "seq": 42, **order, "files": files, "values": values,
                                            "uid": uid, "gid": gid})

    both = [file("db/password"), file("db/username", 0o440, 1)]
    two = case("two files, one for the group", both, [password, username], 2000)
    told = [(f["path"], f["mode"], f["value"]) for f in both]
    digest = bytes.fromhex(two["out"]["digest"])

    def bent(name: str, why: str, files: list[file_list.File] = told, uid: int = 1000, gid: int | None = 2000,
             values: list[str] | None = None, digested: bool = False) -> Case:
        values = values or [password, username]
        over = file_list.digest(files, uid, gid, [bytes.fromhex(v) for v in values]) if digested else digest
        message = file_list.message(1, 42, over, files, uid, gid)
        return negative(name, why, {"values": values}, message=message.hex())

    first, second = told
    return [
        two, case("one value in two files", [file("a"), file("b", 0o440)], [password], 0),
        case("no group", [file("token")], [password]), case("root's", [file("token")], [password], uid=0),
        case("paths that sort by bytes", [file("a-b"), file("a/b"), file("a.b"), file("ключ")], [password]),
        case("no file", [], []), case("largest numbers", [file("token")], [password], U32_MAX - 1, U32_MAX - 1,
                                      incarnation=U32_MAX, seq=U64_MAX),
        bent("another mode", "digest", [(first[0], 0o440, 0), second]), bent("another path", "digest", [("db/passwords", 0o400, 0), second]),
        bent("another owner", "digest", uid=0), bent("another group", "digest", gid=0), bent("without its group", "digest", gid=None),
        bent("values exchanged", "digest", [(first[0], 0o400, 1), (second[0], 0o440, 0)]),
        bent("another value", "digest", values=[password, uuid("another value")]),
        bent("a value past the last", "value", [first, second, ("more", 0o400, 2)]),
        bent("a value that is no file's", "value", [first, (second[0], 0o440, 0)], digested=True),
        bent("a path twice", "path", [first, (first[0], 0o440, 1)], digested=True),
        bent("a mode past 16 bits", "mode", [(first[0], 0o200400, 0), second], digested=True),
        bent("257 files", "count", [(f"{n:03}", 0o400, n % 2) for n in range(257)], digested=True),
    ]
