"""Cases of the audit log: leaves, the tree and its proofs, and signed notes; and of backups, which end in one."""

import base64

from attache_formats import note
from attache_formats.primitives import STORE_FORMAT, ed25519_public, sha256
from constructions import Fields

from .common import (BROKER, Case, NEWLINE, OTHER_STORE, STORE, U32_MAX, U64_MAX, flip, negative, opening, positive, rand,
                     swaps, uuid)


def leaf_cases() -> list[Case]:
    def item(tag: int, value: str) -> Fields:
        return {"tag": tag, "value": value}

    cases = [positive("audit-leaf", name, {"items": items}) for name, items in {
        "no item": [], "one item": [item(1, "02")], "an empty value": [item(7, "")],
        "several": [item(1, "01"), item(2, rand("leaf uuid", 16)), item(0x0100, b"payments/db".hex()), item(0xFFFF, rand("leaf", 40))],
    }.items()]
    head, one, two = "00010001", "00010000000101", "00020000000102"
    refused = {"tags descending": ("order", head + two + one), "tag twice": ("duplicate", head + one + one),
               "length past the end": ("length", head + "00010000000201"), "cut in an item's head": ("length", head + one + "0002"),
               "format 2": ("format", "00020001" + one), "suite 2": ("suite", "00010002" + one), "empty": ("length", "")}
    return cases + [negative(name, why, {}, body=body) for name, (why, body) in refused.items()]


def bodies(size: int) -> list[str]:
    return [n.to_bytes(4, "big").hex() for n in range(size)]


def root_cases() -> list[Case]:
    return [positive("merkle-root", f"size {size}", {"bodies": bodies(size)}) for size in [*range(10), 33]]


def inclusion_cases() -> list[Case]:
    points = [(i, n) for n in range(1, 10) for i in range(n)] + [(i, 33) for i in (0, 1, 15, 16, 31, 32)]
    cases = [positive("merkle-inclusion", f"leaf {i} of {n}", {"bodies": bodies(n), "index": i}) for i, n in points]
    base = opening(next(c for c in cases if c["name"] == "leaf 3 of 7"), ["bodies"], ["size", "leaf_hash", "root", "proof"])
    single = opening(cases[0], ["bodies"], ["size", "leaf_hash", "root", "proof"])
    proof = base["proof"]
    return cases + [
        negative("flipped proof", "root", base, proof=[flip(proof[0], 0), *proof[1:]]),
        negative("flipped root", "root", base, root=flip(base["root"], 0)),
        negative("flipped leaf", "root", base, leaf_hash=flip(base["leaf_hash"], 0)),
        negative("another index", "root", base, index=2),
        negative("index = size", "index", base, index=7),
        negative("proof reversed", "root", base, proof=proof[::-1]),
        negative("proof too short", "proof length", base, proof=proof[:-1]),
        negative("proof too long", "proof length", base, proof=[*proof, rand("more proof")]),
        negative("a proof for the only leaf", "proof length", single, proof=[rand("more proof")]),
        negative("empty tree", "index", single, size=0),
    ]


def consistency_cases() -> list[Case]:
    points = [(m, n) for n in range(1, 10) for m in range(1, n + 1)] + [(m, 33) for m in (1, 8, 31, 32, 33)]
    cases = [positive("merkle-consistency", f"{m} to {n}", {"bodies": bodies(n), "first": m}) for m, n in points]
    fields = ["second", "first_root", "second_root", "proof"]
    base = opening(next(c for c in cases if c["name"] == "6 to 9"), ["bodies"], fields)
    equal = opening(next(c for c in cases if c["name"] == "6 to 6"), ["bodies"], fields)
    proof = base["proof"]
    return cases + [
        negative("flipped proof", "root", base, proof=[flip(proof[0], 0), *proof[1:]]),
        negative("flipped first root", "root", base, first_root=flip(base["first_root"], 0)),
        negative("flipped second root", "root", base, second_root=flip(base["second_root"], 0)),
        negative("proof too short", "proof length", base, proof=proof[:-1]),
        negative("proof too long", "proof length", base, proof=[*proof, rand("more proof")]),
        negative("empty proof", "proof length", base, proof=[]),
        negative("from 0", "size", base, first=0),
        negative("shrinks", "size", base, first=10),
        negative("equal sizes, other roots", "root", equal, second_root=flip(equal["second_root"], 0)),
        negative("equal sizes with a proof", "proof length", equal, proof=proof),
    ]


def note_cases() -> list[Case]:
    in_: Fields = {"name": "example.org/log", "seed": rand("note seed"), "text": "first line\nsecond line\n"}
    case = positive("signed-note", "two lines", in_)
    paragraphs = positive("signed-note", "a blank line in the text", in_ | {"text": "one\n\ntwo — three\n"})
    base = opening(case, ["name", "seed", "text"], ["note", "vkey"])
    text, line = in_["text"], case["out"]["signature_line"]
    other_seed = bytes.fromhex(rand("other note seed"))
    other_pk = ed25519_public(other_seed)
    other_line = note.sign(text, "witness.example", other_seed, other_pk)[len(text) + 1:]
    pk, name = bytes.fromhex(case["out"]["pk"]), in_["name"]
    bad_line = note.signature_line(name, pk, bytes.fromhex(flip(case["out"]["signature"], 0)))
    vkey = base["vkey"]
    type_2 = b"\x02" + pk
    vkey_of_type_2 = f"{name}+{sha256(name.encode() + NEWLINE + type_2)[:4].hex()}+{base64.b64encode(type_2).decode()}"
    return [
        case, paragraphs,
        negative("edited text", "signature", base, note=base["note"].replace("second", "sekond")),
        negative("flipped signature", "signature", base, note=text + "\n" + bad_line),
        negative("only another key's line", "no signature by this key", base, note=text + "\n" + other_line),
        negative("another name with our signature", "no signature by this key", base,
                 note=text + "\n" + note.signature_line("example.org/gol", pk, bytes.fromhex(case["out"]["signature"]))),
        negative("no blank line", "malformed", base, note=text + line),
        negative("no signature line", "malformed", base, note=text + "\n"),
        negative("hyphen for the em dash", "malformed", base, note=text + "\n" + line.replace("—", "-")),
        negative("no newline at the end", "malformed", base, note=base["note"][:-1]),
        negative("vkey with another key id", "vkey", base, vkey=f"{name}+00000000+" + vkey.split("+", 2)[2]),
        negative("vkey of another algorithm", "vkey", base, vkey=vkey_of_type_2),
    ]


def audit_key_cases() -> list[Case]:
    after = ed25519_public(bytes.fromhex(rand("audit seed after"))).hex()
    in_: Fields = {"store": STORE, "epoch": 2, "seed": rand("audit seed"), "after": after}
    case = positive("audit-key", "the first rotation", in_)
    base = opening(case, ["seed"], ["before", "endorsement"])
    return [
        case, positive("audit-key", "largest epoch", in_ | {"epoch": U32_MAX}),
        *swaps(base, "signature", store=OTHER_STORE, epoch=3, before=after, after=base["before"]),
        negative("flipped signature", "signature", base, endorsement=flip(base["endorsement"], 0)),
    ]


def checkpoint_cases() -> list[Case]:
    chain = uuid("chain")
    in_: Fields = {"store": STORE, "chain": chain, "seed": rand("audit seed"), "size": 33, "root": rand("checkpoint root")}
    case = positive("checkpoint", "size 33", in_)
    empty = positive("checkpoint", "empty tree", in_ | {"size": 0, "root": sha256(b"").hex()})
    large = positive("checkpoint", "largest size", in_ | {"size": U64_MAX})
    base = opening(case, ["seed", "size", "root"], ["note", "vkey"])
    text, origin = case["out"]["text"], case["out"]["origin"]
    seed = bytes.fromhex(in_["seed"])

    def signed(changed: str) -> str:
        return note.sign(changed, origin, seed, ed25519_public(seed))

    return [
        case, empty, large,
        negative("another chain", "origin", base, chain=uuid("other chain")),
        negative("another store", "origin", base, store=OTHER_STORE),
        negative("edited size", "signature", base, note=base["note"].replace("\n33\n", "\n34\n")),
        negative("leading zero", "number", base, note=signed(text.replace("\n33\n", "\n033\n"))),
        negative("negative size", "number", base, note=signed(text.replace("\n33\n", "\n-33\n"))),
        negative("size past u64", "number", base, note=signed(text.replace("\n33\n", f"\n{1 << 64}\n"))),
        negative("root of 31 bytes", "hash", base, note=signed(note.checkpoint_text(origin, 33, bytes(31)))),
        negative("root not base64", "hash", base, note=signed(f"{origin}\n33\n****\n")),
        negative("two lines", "malformed", base, note=signed(f"{origin}\n33\n")),
    ]


def anchor_note_cases() -> list[Case]:
    in_: Fields = {"store": STORE, "seed": rand("audit seed"), "incarnation": 1, "seq": 42, "t": rand("anchor t")}
    case = positive("anchor-note", "seq 42", in_)
    largest = positive("anchor-note", "largest numbers", in_ | {"incarnation": U32_MAX, "seq": U64_MAX})
    base = opening(case, ["seed", "incarnation", "seq", "t"], ["note", "vkey"])
    text, origin, seed = case["out"]["text"], case["out"]["origin"], bytes.fromhex(in_["seed"])

    def signed(changed: str) -> str:
        return note.sign(changed, origin, seed, ed25519_public(seed))

    return [
        case, largest,
        negative("another store", "origin", base, store=OTHER_STORE),
        negative("edited seq", "signature", base, note=base["note"].replace("\n42\n", "\n41\n")),
        negative("incarnation past u32", "number", base, note=signed(text.replace("\n1\n", f"\n{1 << 32}\n"))),
        negative("seq with a plus", "number", base, note=signed(text.replace("\n42\n", "\n+42\n"))),
        negative("T of 31 bytes", "hash", base, note=signed(note.anchor_text(origin, 1, 42, bytes(31)))),
        negative("three lines", "malformed", base, note=signed(f"{origin}\n1\n42\n")),
    ]


def segment_cases() -> list[Case]:
    in_: Fields = {"store": "11" * 16, "chain": "22" * 16, "first_index": 20, "records": []}
    leaf, text = positive("audit-leaf", "", {"items": [{"tag": 1, "value": "0002"}]})["out"]["body"], "a note"
    header = positive("segment", "no record", in_)
    case = positive("segment", "a batch of two leaves", in_ | {"records": [{"leaf": leaf}, {"leaf": leaf}, {"note": text}]})
    whole = case["out"]["segment"]

    def put(at: int, bytes_: str) -> str:
        return whole[:2 * at] + bytes_ + whole[2 * at + len(bytes_):]

    refused = {
        "63 bytes": ("length", whole[:126]), "another magic": ("magic", put(0, "61")), "format 2": ("format", put(8, "0002")),
        "suite 2": ("suite", put(10, "0002")), "reserved bytes": ("magic", put(63, "01")),
        "kind 3": ("kind", put(68, "03")), "a record past the end": ("length", put(64, "00000100")),
        "a record longer than a leaf": ("length", put(64, "00100001")), "bytes behind the end": ("trailing", whole + "0000000001"),
    }
    return [header, case, positive("segment", "largest index", in_ | {"first_index": U64_MAX}),
            *(negative(name, why, {}, segment=bad) for name, (why, bad) in refused.items())]


def summary_cases() -> list[Case]:
    in_: Fields = {"store": STORE, "chain": uuid("chain"), "seed": rand("audit seed"), "bodies": bodies(7),
                   "anchor": {"incarnation": 1, "seq": 42, "t": rand("anchor t")}, "intents": [3, 5]}
    case = positive("summary", "seven leaves, two open intents", in_)
    base = opening(case, ["seed", "bodies", "anchor", "intents"], ["note", "vkey"])
    return [case, positive("summary", "eight leaves, no anchor, no intent", in_ | {
                "bodies": bodies(8), "anchor": None, "intents": []}),
            negative("edited size", "signature", base, note=base["note"].replace("size 7", "size 8")),
            negative("an intent dropped", "signature", base, note=base["note"].replace("intent 3\n", ""))]


def chain_id_cases() -> list[Case]:
    in_: Fields = {"store": STORE, "broker_id": BROKER}
    return [positive("chain-id", "broker-0", in_), positive("chain-id", "broker-1", in_ | {"broker_id": BROKER[:-1] + "1"}),
            positive("chain-id", "another store", in_ | {"store": OTHER_STORE}),
            positive("chain-id", "broker-0, since incarnation 2", in_ | {"incarnation": 2})]


def backup_cases() -> list[Case]:
    in_: Fields = {"store_format": STORE_FORMAT, "store": STORE, "seed": rand("audit seed"), "backup": uuid("backup"), "incarnation": 1,
                   "seq": 42, "created": 1700000000000, "anchor_t": rand("anchor t"), "chain": uuid("chain"), "audit_size": 33,
                   "audit_root": rand("audit root"), "tables": [
                       {"name": "anchor", "rows": [{"key": "", "value": "a0a1"}]},
                       {"name": "grant", "rows": []},
                       {"name": "head", "rows": [{"key": b"payments/api".hex(), "value": "b0"}, {"key": b"payments/db".hex(), "value": ""}]}]}
    case = positive("backup", "two tables with rows and one without", in_)
    largest = {"store_format": 0xffff, "incarnation": U32_MAX, "seq": U64_MAX, "created": U64_MAX, "audit_size": U64_MAX}
    base = opening(case, [*in_], ["file", "vkey"])
    whole = bytes.fromhex(base["file"])
    seed = bytes.fromhex(in_["seed"])
    origin = case["out"]["note"].split("\n")[0]
    end = len(whole) - 9 - len(case["out"]["note"].encode())

    def put(at: int, bytes_: str) -> str:
        raw = bytes.fromhex(bytes_)
        return (whole[:at] + raw + whole[at + len(raw):]).hex()

    def ended(text: str) -> str:
        signed = note.sign(text, origin, seed, ed25519_public(seed)).encode()
        return (whole[:end] + b"\x04" + bytes(4) + len(signed).to_bytes(4, "big") + signed).hex()

    text = case["out"]["note"].partition("\n\n")[0] + "\n"
    refused = {
        "another magic": ("magic", put(0, "61")), "format 2": ("format", put(8, "0002")), "suite 2": ("suite", put(10, "0002")),
        "a reserved byte": ("zero", put(55, "01")), "one behind the store's format": ("zero", put(15, "01")), "cut in the head": ("cut", whole[:159].hex()),
        "cut behind the head": ("cut", whole[:160].hex()), "cut before the end": ("cut", whole[:end].hex()),
        "cut in the end": ("cut", whole[:-1].hex()), "a byte behind the end": ("trailing", whole.hex() + "00" * 9),
        "kind 5": ("frame", put(160, "05")), "a name that is too long": ("frame", put(161, "00000041")),
        "a row before a table": ("order", (whole[:160] + whole[175:]).hex()),
        "a table twice": ("order", (whole[:160] + 2 * whole[160:203]).hex()),
        "a table's count": ("count", put(202, "02")),
        "an edited row": ("other bytes", put(185, "a2")), "an edited head": ("other bytes", put(120, "01")),
        "an edited seq in the note": ("signature", (whole[:end] + whole[end:].replace(b"\n42\n", b"\n41\n")).hex()),
        "the note of another seq": ("other bytes", ended(text.replace("\n42\n", "\n41\n"))),
        "the note of another backup": ("other bytes", ended(text.replace(text.split("\n")[1], origin[-36:]))),
    }
    other = note.vkey(origin, ed25519_public(bytes.fromhex(rand("another audit seed"))))
    return [case, positive("backup", "no table, largest numbers", in_ | largest | {"tables": []}),
            *(negative(name, why, base, file=bad) for name, (why, bad) in refused.items()),
            negative("another key", "no signature by this key", base, vkey=other)]
