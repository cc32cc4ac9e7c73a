"""Cases of what the store holds: LP, wraps, values, keyring, slots, rows, set hash and anchor."""

from typing import Any

from attache_formats import hpke
from attache_formats.primitives import ed25519_public, ed25519_sign
from attache_formats.slot import KEY_FILE_PREFIX, seal_srk, signed_bytes
from constructions import Fields

from .common import (Case, KEK_ID, OTHER_STORE, SECRET, STORE, U32_MAX, U64_MAX, VALUE, flip, negative, opening,
                     positive, rand, swaps, uuid)


def lp_cases() -> list[Case]:
    specs: dict[str, list[Any]] = {
        "no field": [],
        "one empty string": [{"str": ""}],
        "integers": [{"u16": 1}, {"u32": 0x01020304}, {"u64": 0x0102030405060708}],
        "integers at their largest": [{"u16": 0xFFFF}, {"u32": U32_MAX}, {"u64": U64_MAX}],
        "label and uuid": [{"str": "attache/test/1"}, {"hex": STORE}],
        "utf-8": [{"str": "payménts/db"}, {"str": "鍵"}],
        "moved boundary, left": [{"str": "ab"}, {"str": "c"}],
        "moved boundary, right": [{"str": "a"}, {"str": "bc"}],
        "empty list": [{"list": []}],
        "empty list between fields": [{"str": "x"}, {"list": []}, {"str": "y"}],
        "list of pairs": [{"str": "x"}, {"list": [[{"str": "a"}, {"u32": 1}], [{"str": "b"}, {"u32": 2}]]}],
        "list of single parts": [{"list": [[{"str": "tls"}], [{"str": ""}]]}],
        "two lists in a row": [{"list": [[{"str": "a"}]]}, {"list": [[{"str": "b"}], [{"str": "c"}]]}],
        "list within a list": [{"list": [[{"str": "a"}, {"list": [[{"u16": 7}], [{"u16": 8}]]}]]}],
        "field of 300 bytes": [{"hex": rand("lp long", 300)}],
    }
    return [positive("lp", name, {"fields": fields}) for name, fields in specs.items()]


def wrap_cases(kind: str, in_: Fields, key_id: str, others: Fields, sizes: dict[str, int]) -> list[Case]:
    """Positives of each plaintext size; then every part of the stored bytes flipped and every aad field swapped."""
    cases = [positive(kind, name, in_ | {"salt": rand(f"{kind} salt {size}"), "plaintext": rand(f"{kind} plain", size)})
             for name, size in sizes.items()]
    base = opening(cases[0], ["salt", "plaintext"], ["stored"])
    stored = base["stored"]
    return cases + [
        negative("flipped salt", "commit", base, stored=flip(stored, 0)),
        negative("flipped commit, first byte", "commit", base, stored=flip(stored, 32)),
        negative("flipped commit, last byte", "commit", base, stored=flip(stored, 63)),
        negative("flipped ciphertext", "tag", base, stored=flip(stored, 64)),
        negative("flipped tag, first byte", "tag", base, stored=flip(stored, -16)),
        negative("flipped tag, last byte", "tag", base, stored=flip(stored, -1)),
        negative("last byte missing", "tag", base, stored=stored[:-2]),
        negative("one byte more", "tag", base, stored=stored + "00"),
        negative("79 bytes", "length", base, stored=stored[:158]),
        negative("empty", "length", base, stored=""),
        negative("another K", "commit", base, k=rand(f"{kind} other k")),
        negative("another key id", "commit", base, **{key_id: uuid(f"{kind} other key id")}),
        *swaps(base, "tag", **others),
    ]


def wrap_files() -> dict[str, list[Case]]:
    dek = {"k": rand("kek"), "key_id": KEK_ID, "store": STORE, "keyspace": "payments", "secret": SECRET,
           "value": VALUE, "ct_hash": rand("ct hash")}
    kek = {"k": rand("kek wrap key"), "key_id": uuid("kek wrap key id"), "store": STORE, "keyspace": "payments",
           "epoch": 1, "kek_id": KEK_ID}
    slot = {"k": rand("slot secret"), "store": STORE, "slot": uuid("slot"), "kind": "key-file", "kdf_parameters": ""}
    of_shares = positive("shares", "2 of 2", {"secret": slot["k"], "threshold": 2, "count": 2, "set": rand("share set", 16),
                                              "coefficients": rand("share coefficients")})
    shares = slot | {"kind": "shares", "kdf_parameters": of_shares["out"]["record"], "salt": rand("wrap-slot salt shares"),
                     "plaintext": rand("wrap-slot plain shares", 64)}
    anchor = {"k": rand("anchor seal key"), "key_id": uuid("anchor seal key id"), "store": STORE, "incarnation": 1,
              "seq": 42}
    return {
        "wrap-dek": wrap_cases("wrap-dek", dek, "key_id", {
            "store": OTHER_STORE, "keyspace": "billing", "secret": uuid("other secret"), "value": uuid("other value"),
            "ct_hash": flip(dek["ct_hash"], 31)}, {"a DEK": 32}),
        "wrap-kek": wrap_cases("wrap-kek", kek, "key_id", {
            "store": OTHER_STORE, "keyspace": "billing", "epoch": 2, "kek_id": uuid("other kek id")}, {"a KEK": 32}),
        "wrap-slot": wrap_cases("wrap-slot", slot, "slot", {
            "store": OTHER_STORE, "kind": "passphrase", "kdf_parameters": "00010003"}, {"sk and rekey_pk": 64}) + [positive("wrap-slot", "a slot of shares", shares)],
        "wrap-anchor": wrap_cases("wrap-anchor", anchor, "key_id", {
            "store": OTHER_STORE, "incarnation": 2, "seq": 43}, {"three tables": 132, "empty plaintext": 0}),
    }


def value_cases() -> list[Case]:
    base_in = {"dek": rand("dek"), "store": STORE, "keyspace": "payments", "secret": SECRET, "value": VALUE,
               "field": "password"}
    cases = [positive("value", name, base_in | {"plaintext": plaintext}) for name, plaintext in {
        "a password": b"correct horse battery staple".hex(), "empty": "", "one block": rand("block", 16),
        "1 KiB": rand("value kib", 1024)}.items()]
    cases.append(positive("value", "field of every kind of character", base_in | {"field": "Tls_1.key-v2", "plaintext": rand("pem", 33)}))
    base = opening(cases[0], ["plaintext"], ["ct"])
    ct = base["ct"]
    return cases + [
        negative("flipped ciphertext", "tag", base, ct=flip(ct, 0)),
        negative("flipped tag", "tag", base, ct=flip(ct, -1)),
        negative("last byte missing", "tag", base, ct=ct[:-2]),
        negative("15 bytes", "length", base, ct=ct[:30]),
        negative("another DEK", "tag", base, dek=rand("other dek")),
        *swaps(base, "tag", store=OTHER_STORE, keyspace="billing", secret=uuid("other secret"),
               value=uuid("other value"), field="username"),
    ]


def keyring_cases() -> list[Case]:
    in_: Fields = {"srk": rand("srk"), "store": STORE, "number": 1, "record": rand("keyring record", 321)}
    cases = [positive("keyring", "number 1", in_), positive("keyring", "largest number", in_ | {"number": U64_MAX}),
             positive("keyring", "empty record", in_ | {"record": ""})]
    base = opening(cases[0], ["record"], ["ct"])
    return cases + [
        negative("flipped ciphertext", "tag", base, ct=flip(base["ct"], 0)),
        negative("flipped tag", "tag", base, ct=flip(base["ct"], -1)),
        negative("15 bytes", "length", base, ct=base["ct"][:30]),
        *swaps(base, "tag", srk=rand("other srk"), store=OTHER_STORE, number=2),
    ]


def srk_cases() -> list[Case]:
    in_: Fields = {"srk": rand("srk"), "store": STORE, "slot": uuid("slot"), "number": 1, "sk": rand("slot sk"),
           "ikm_e": rand("srk ikm_e"), "rekey_seed": rand("rekey seed")}
    case = positive("srk-seal", "number 1", in_)
    base = opening(case, ["srk", "ikm_e", "rekey_seed"], ["rekey_pk", "enc", "ct", "signature"])
    slot, pk = bytes.fromhex(in_["slot"]), bytes.fromhex(case["out"]["pk"])
    store = bytes.fromhex(STORE)

    def seal(slot_in_info: bytes, ct_flip: bool, seed: str) -> Fields:
        """A seal made from public facts alone, signed by whoever holds the seed."""
        sk_e, _ = hpke.derive_key_pair(bytes.fromhex(rand("srk forged ikm_e")))
        context, ct = seal_srk(bytes.fromhex(rand("forged srk")), store, slot_in_info, pk, sk_e)
        ct = bytes.fromhex(flip(ct.hex(), -1)) if ct_flip else ct
        signature = ed25519_sign(bytes.fromhex(seed), signed_bytes(store, slot, pk, 1, context.enc, ct))
        return {"enc": context.enc.hex(), "ct": ct.hex(), "signature": signature.hex()}

    other = bytes.fromhex(uuid("other slot"))
    return [
        case,
        positive("srk-seal", "a later number", in_ | {"number": 7, "srk": rand("srk 7"), "ikm_e": rand("srk ikm_e 7")}),
        negative("flipped signature", "signature", base, signature=flip(base["signature"], 0)),
        negative("flipped ct", "signature", base, ct=flip(base["ct"], 0)),
        negative("flipped enc", "signature", base, enc=flip(base["enc"], 0)),
        negative("another rekey_pk in the blob", "signature", base,
                 rekey_pk=ed25519_public(bytes.fromhex(rand("other rekey seed"))).hex()),
        negative("forged from the public key alone, signed by another key", "signature", base,
                 **seal(slot, False, rand("other rekey seed"))),
        negative("rightly signed, tag flipped before", "tag", base, **seal(slot, True, in_["rekey_seed"])),
        negative("rightly signed, info of another slot", "tag", base, **seal(other, False, in_["rekey_seed"])),
        *swaps(base, "signature", store=OTHER_STORE, slot=other.hex(), number=2, sk=rand("other slot sk")),
    ]


def key_file_cases() -> list[Case]:
    case = positive("key-file", "random", {"secret": rand("slot secret")})
    text = case["out"]["text"]
    dashes = positive("key-file", "every byte 0xfb (dashes and underscores)", {"secret": "fbefbe" * 10 + "fbef"})
    marks = dashes["out"]["text"]
    refused = {
        "padding": ("length", text[:-1] + "=\n"), "no newline": ("newline", text[:-1]),
        "CRLF": ("length", text[:-1] + "\r\n"), "a second newline": ("length", text + "\n"),
        "prefix of another version": ("prefix", text.replace("-1:", "-2:")), "space before": ("prefix", " " + text),
        "one character short": ("length", text[:-2] + "\n"), "standard alphabet": ("alphabet", KEY_FILE_PREFIX + marks[len(KEY_FILE_PREFIX):].replace("-", "+")),
        "a character of neither alphabet": ("alphabet", text[:30] + "*" + text[31:]),
        "spare bits set": ("spare bits", "attache-slot-key-1:" + "A" * 42 + "B\n"), "empty": ("prefix", ""),
    }
    return [case, positive("key-file", "zeros", {"secret": "00" * 32}), dashes,
            *(negative(name, why, {}, text=bad) for name, (why, bad) in refused.items())]


def passphrase_cases() -> list[Case]:
    def parameters(memory: int, passes: int, lanes: int, salt: str = rand("passphrase salt")) -> str:
        return b"".join(number.to_bytes(4, "big") for number in (memory, passes, lanes)).hex() + salt

    words = "correct horse battery staple"
    return [
        positive("passphrase", "as new slots have it", {"passphrase": words, "parameters": parameters(65536, 3, 4)}),
        positive("passphrase", "the least", {"passphrase": words, "parameters": parameters(8, 1, 1)}),
        positive("passphrase", "two passes, two lanes, not ASCII", {"passphrase": "Pferd, Batterie, Heftklammer: grün", "parameters": parameters(100, 2, 2)}),
        *(negative(name, "cost", {}, passphrase=words, parameters=bad) for name, bad in {
            "more than 1 GiB": parameters((1 << 20) + 1, 1, 1), "more than 4 GiB times passes": parameters(1 << 20, 5, 1),
            "no pass": parameters(64, 0, 1), "no lane": parameters(64, 1, 0), "65 lanes": parameters(65536, 1, 65),
            "too little memory for its lanes": parameters(15, 1, 2)}.items()),
        negative("a salt of 31", "length", {}, passphrase=words, parameters=parameters(64, 1, 1)[:-2]),
    ]


def kms_slot_cases() -> list[Case]:
    in_: Fields = {"store": STORE, "slot": uuid("slot"), "secret": rand("slot secret"), "key_id": "kms-key-1",
                   "ciphertext": rand("kms ciphertext", 105), "annotations": []}
    two = [{"name": "version.kms.example", "value": "31"}, {"name": "key.kms.example", "value": rand("annotation", 8)}]
    return [
        positive("kms-slot", "no annotation", in_), positive("kms-slot", "two annotations", in_ | {"annotations": two}),
        positive("kms-slot", "the largest", in_ | {"key_id": "k" * 1024, "ciphertext": rand("kms ciphertext", 1024)}),
        negative("an empty key id", "size", in_, key_id=""), negative("an empty ciphertext", "size", in_, ciphertext=""),
        negative("a ciphertext of 1,025", "size", in_, ciphertext=rand("kms ciphertext", 1025)),
        negative("annotations of more than 32 KiB", "annotations", in_, annotations=[{"name": "a", "value": "00" * 32 * 1024}]),
    ]


def shares_cases() -> list[Case]:
    def case(name: str, threshold: int, count: int, coefficients: str | None = None) -> Case:
        drawn = rand("share coefficients", 32 * (threshold - 1)) if coefficients is None else coefficients
        return positive("shares", name, {"secret": rand("slot secret"), "threshold": threshold, "count": count,
                                         "set": rand("share set", 16), "coefficients": drawn})

    three = case("3 of 5", 3, 5)
    shares: list[str] = three["out"]["shares"]
    base = {"set": three["in"]["set"], "threshold": 3, "commitments": three["out"]["commitments"]}
    return [
        three, case("2 of 2", 2, 2), case("7 of 32", 7, 32), case("coefficients of zeros", 3, 3, "00" * 64),
        negative("two of three", "too few", base, given=shares[:2]),
        negative("the same share twice", "twice", base, given=[shares[0], shares[1], shares[0]]),
        negative("a share altered", "commitment", base, given=[shares[0], shares[1], flip(shares[2], -1)]),
        negative("a share under another number", "commitment", base,
                 given=[shares[0], shares[1], shares[2][:32] + "04" + shares[2][34:]]),
        negative("a number beyond the set", "commitment", base, given=[shares[0], shares[1], shares[2][:32] + "06" + shares[2][34:]]),
        negative("number 0", "commitment", base, given=[shares[0], shares[1], shares[2][:32] + "00" + shares[2][34:]]),
        negative("a share of another set", "other set", base, given=[shares[0], shares[1], flip(shares[2], 0)]),
    ]


def share_file_cases() -> list[Case]:
    in_: Fields = {"store": STORE, "slot": uuid("slot"), "threshold": 2, "count": 3, "share": rand("share set", 16) + "02" + rand("share")}
    case = positive("share-file", "2 of 3", in_)
    text: str = case["out"]["text"]
    body = text.split("\n")[4]
    refused = {
        "empty": ("head", ""), "head of another version": ("head", text.replace("share-1\n", "share-2\n")), "space before": ("head", " " + text),
        "CRLF": ("head", text.replace("\n", "\r\n")), "no newline": ("newline", text[:-1]), "a second newline": ("length", text + "\n"),
        "a store in capitals": ("store", text.replace("store ", "store A", 1)), "no slot": ("slot", text.replace("slot ", "slat ", 1)),
        "number 0": ("numbers", text.replace("share 2", "share 0")), "a number beyond the set": ("numbers", text.replace("share 2", "share 4")),
        "a leading zero": ("numbers", text.replace("share 2", "share 02")), "33 shares": ("numbers", text.replace("of 3", "of 33")),
        "one opens": ("numbers", text.replace("any 2", "any 1")), "more needed than there are": ("numbers", text.replace("any 2", "any 4")),
        "other words": ("numbers", text.replace("open the slot", "open it")), "only the head": ("store", "attache-share-1\n"),
        "one character short": ("length", text[:-2] + "\n"), "padding": ("length", text[:-1] + "==\n"),
        "a character of neither alphabet": ("alphabet", text[:-31] + "*" + text[-30:]),
        "standard alphabet": ("alphabet", text[:-31] + "+" + text[-30:]), "spare bits set": ("spare bits", text[:-2] + "B\n"),
        "another number than the share's": ("index", text.replace("share 2", "share 1")),
    }
    assert len(body) == 66
    return [case, positive("share-file", "32 of 32", in_ | {"threshold": 32, "count": 32, "share": rand("share set", 16) + "20" + rand("share")}),
            *(negative(name, why, {}, text=bad) for name, (why, bad) in refused.items())]


def row_cases() -> list[Case]:
    in_: Fields = {"k_row": rand("k_row"), "store": STORE, "table": "head", "key": b"payments/db".hex(), "epoch": 1, "seq": 42,
           "body": rand("row body", 90)}
    cases = [positive("row", "a head", in_), positive("row", "empty body", in_ | {"body": ""}),
             positive("row", "largest epoch and seq", in_ | {"epoch": U32_MAX, "seq": U64_MAX})]
    base = opening(cases[0], ["body", "epoch", "seq"], ["row"])
    row = base["row"]
    return cases + [
        negative("format 0", "format", base, row=flip(row, 1)),
        negative("flipped epoch", "tag", base, row=flip(row, 5)),
        negative("flipped seq", "tag", base, row=flip(row, 13)),
        negative("flipped body", "tag", base, row=flip(row, 14)),
        negative("flipped tag, first byte", "tag", base, row=flip(row, -32)),
        negative("flipped tag, last byte", "tag", base, row=flip(row, -1)),
        negative("last byte missing", "tag", base, row=row[:-2]),
        negative("45 bytes", "length", base, row=row[:90]),
        *swaps(base, "tag", k_row=rand("other k_row"), store=OTHER_STORE, table="version", key=b"payments/dc".hex()),
    ]


def set_cases() -> list[Case]:
    def step(op: str, n: int) -> Fields:
        return {"op": op, "key": uuid(f"set key {n}"), "tag": rand(f"set tag {n}")}

    in_: Fields = {"k_set": rand("k_set"), "store": STORE, "table": "value-key"}
    steps = {
        "empty": [], "one row": [step("add", 0)], "eight rows (the sum wraps)": [step("add", n) for n in range(8)],
        "the same in another order": [step("add", n) for n in reversed(range(8))],
        "a row removed": [step("add", n) for n in range(3)] + [step("remove", 1)],
        "all removed": [step("add", 0), step("add", 1), step("remove", 0), step("remove", 1)],
    }
    return [positive("set-hash", name, in_ | {"steps": list_}) for name, list_ in steps.items()] + [
        positive("set-hash", "a row replaced", in_ | {"steps": [
            step("add", 0), step("remove", 0), {"op": "add", "key": uuid("set key 0"), "tag": rand("set tag new")}]})]


def anchor_cases() -> list[Case]:
    def table(name: str, seq: int, count: int) -> Fields:
        return {"table": name, "a": rand(f"a {name} {seq}") if count else "00" * 32, "count": count}

    head = {"chain": uuid("chain"), "size": 3, "root": rand("root 3")}
    in_: Fields = {"k_anchor_mac": rand("k_anchor_mac"), "store": STORE, "incarnation": 1}
    first = positive("anchor-chain", "step 1, from T_0", in_ | {
        "seq": 1, "t_prev": "00" * 32, "tables": [table("head", 1, 1), table("value-key", 1, 0)], "chains": [head]})
    second = positive("anchor-chain", "step 2", in_ | {
        "seq": 2, "t_prev": first["out"]["t"], "tables": [table("head", 2, 2), table("value-key", 2, 4)],
        "chains": [head | {"size": 5_000_000_000, "root": rand("root 5e9")}]})
    unsorted = positive("anchor-chain", "tables and chains given out of order", in_ | {
        "seq": 3, "t_prev": second["out"]["t"],
        "tables": [table("version", 3, 1), table("grant", 3, 7), table("head", 3, 2)],
        "chains": [head | {"chain": "ff" * 16}, head | {"chain": "0e" * 16}]})
    empty = positive("anchor-chain", "no tables, no chains", in_ | {
        "seq": U64_MAX, "t_prev": "00" * 32, "tables": [], "chains": [], "incarnation": U32_MAX})
    return [first, second, unsorted, empty]


def anchor_row_cases() -> list[Case]:
    in_: Fields = {"k": rand("anchor seal key"), "key_id": "44" * 16, "salt": rand("anchor row salt"), "store": STORE,
                   "incarnation": 1, "seq": 42, "t_prev": "03" * 32,
                   "tables": [{"table": "value-key", "a": "00" * 32, "count": 0}, {"table": "head", "a": "aa" * 32, "count": 1}],
                   "chains": [{"chain": "05" * 16, "size": 33, "root": "07" * 32}]}
    return [positive("anchor-row", "two tables, one chain", in_),
            positive("anchor-row", "a new store", in_ | {"seq": 1, "t_prev": "00" * 32, "tables": [], "chains": []})]
