"""Cases of what is sent: puts, releases, denials, the generations that nodes mount, and late renewals."""

from attache_formats import hpke
from constructions import Fields

from .common import (BROKER, Case, NODE, OPERATOR, OTHER_STORE, POD_UID, SECRET, STORE, U64_MAX, flip, negative,
                     opening, positive, rand, swaps, uuid)


def put_cases() -> list[Case]:
    def sent(field: str) -> Fields:
        return {"field": field, "value": uuid(f"put value {field}"), "ct_hash": rand(f"put ct {field}"),
                "dek": rand(f"put dek {field}")}

    in_: Fields = {"sk_r": rand("broker sk"), "ikm_e": rand("put ikm_e"), "store": STORE, "broker_id": BROKER,
           "boot": uuid("boot"), "key_id": uuid("receive key id"), "operator_id": OPERATOR,
           "request_id": uuid("request", 7), "keyspace": "payments", "name": "db", "secret": SECRET,
           "expected_head_version": 0, "flags": 0, "note": "", "fields": [sent("password")], "carried": []}
    many = in_ | {"ikm_e": rand("put ikm_e 3"), "expected_head_version": 3, "flags": 0, "note": "rotated, see runbook §4",
                  "fields": [sent("username"), sent("a"), sent("password")], "carried": ["tls.key", "tls.crt"]}
    case, case3 = positive("put", "one field of a new secret", in_), positive("put", "three fields out of order, two carried", many)

    def opened(c: Case) -> Fields:
        base = opening(c, ["ikm_e"], ["enc", "sealed"])
        return base | {"fields": [{k: v for k, v in f.items() if k != "dek"} for f in base["fields"]]}

    base, base3 = opened(case), opened(case3)
    field = base["fields"][0]
    return [
        case, case3,
        negative("flipped sealed", "tag", base, sealed=flip(base["sealed"], 0)),
        negative("flipped tag", "tag", base, sealed=flip(base["sealed"], -1)),
        negative("flipped enc", "tag", base, enc=flip(base["enc"], 0)),
        negative("enc of zeros", "public key", base, enc="00" * 32),
        negative("carried dropped", "tag", base3, carried=["tls.crt"]),
        negative("a field sent and carried", "sent and carried", base3, carried=["a", "tls.crt", "tls.key"]),
        negative("one field less", "tag", base3, fields=base3["fields"][1:]),
        negative("field renamed", "tag", base, fields=[field | {"field": "passwd"}]),
        negative("another ct", "tag", base, fields=[field | {"ct_hash": flip(field["ct_hash"], 0)}]),
        *swaps(base, "tag", sk_r=rand("other broker sk"), store=OTHER_STORE, broker_id=BROKER[:-1] + "1",
               boot=uuid("other boot"), key_id=uuid("other key id"), operator_id=OPERATOR[:-5] + "bob",
               request_id=uuid("other request", 7), keyspace="billing", name="dc", secret=uuid("other secret"),
               expected_head_version=1, flags=1, note="x"),
    ]


def slot_secret_cases() -> list[Case]:
    in_: Fields = {"sk_r": rand("broker sk"), "ikm_e": rand("slot ikm_e"), "store": STORE, "broker_id": BROKER,
                   "boot": uuid("boot"), "key_id": uuid("receive key id"), "operator_id": OPERATOR, "verb": "add",
                   "request_id": uuid("request", 7), "slot": uuid("new slot"), "kind": "key-file", "name": "safe",
                   "secret": rand("new slot secret")}
    case = positive("slot-secret", "a key file is added", in_)
    verified = positive("slot-secret", "a key file is verified", in_ | {"verb": "verify", "name": "", "ikm_e": rand("slot ikm_e 2")})
    base = opening(case, ["ikm_e", "secret"], ["enc", "sealed"])
    return [
        case, verified,
        negative("flipped sealed", "tag", base, sealed=flip(base["sealed"], 0)),
        negative("flipped tag", "tag", base, sealed=flip(base["sealed"], -1)),
        negative("flipped enc", "tag", base, enc=flip(base["enc"], 0)),
        negative("enc of zeros", "public key", base, enc="00" * 32),
        *swaps(base, "tag", sk_r=rand("other broker sk"), store=OTHER_STORE, broker_id=BROKER[:-1] + "1",
               boot=uuid("other boot"), key_id=uuid("other key id"), operator_id=OPERATOR[:-5] + "bob", verb="verify",
               request_id=uuid("other request", 7), slot=uuid("other slot"), kind="passphrase", name="safe2"),
    ]


def unseal_cases() -> list[Case]:
    in_: Fields = {"sk_r": rand("boot sk"), "ikm_e": rand("unseal ikm_e"), "store": STORE, "broker_id": BROKER,
                   "boot": uuid("boot"), "slot": uuid("new slot"), "secret": rand("new slot secret")}
    case = positive("unseal", "a key file's secret", in_)
    base = opening(case, ["ikm_e", "secret"], ["enc", "sealed"])
    return [
        case, positive("unseal", "a share", in_ | {"secret": rand("share set", 16) + "02" + rand("share")}),
        negative("flipped sealed", "tag", base, sealed=flip(base["sealed"], 0)),
        negative("flipped tag", "tag", base, sealed=flip(base["sealed"], -1)),
        negative("flipped enc", "tag", base, enc=flip(base["enc"], 0)),
        negative("enc of zeros", "public key", base, enc="00" * 32),
        *swaps(base, "tag", sk_r=rand("other boot sk"), store=OTHER_STORE, broker_id=BROKER[:-1] + "1",
               boot=uuid("other boot"), slot=uuid("other slot")),
    ]


def release_cases() -> list[Case]:
    def granted(name: str, field: str, version: int) -> Fields:
        return {"keyspace": "payments", "name": name, "secret": uuid(f"release secret {name}"), "version": version,
                "field": field, "value": uuid(f"release value {name} {field}"), "ct_hash": rand(f"release ct {name} {field}")}

    volume = "csi-" + rand("volume id", 32)
    in_: Fields = {"sk": rand("agent sk"), "ikm_e": rand("release ikm_e"), "store": STORE, "broker_id": BROKER,
           "boot": uuid("boot"), "node_id": NODE, "session": rand("session", 16), "nonce": rand("nonce", 16),
           "release": rand("release", 16), "leaf_hash": rand("leaf hash"), "volume": volume, "cluster": "local",
           "namespace": "shop", "pod_uid": POD_UID, "container": "app",
           "granted": [granted("db", "password", 1)], "deks": [rand("release dek 0")]}
    case = positive("release", "one value", in_)
    case3 = positive("release", "three values, in the order given", in_ | {
        "nonce": rand("nonce 3", 16), "release": rand("release 3", 16),
        "granted": [granted("db", "username", 5_000_000_000), granted("db", "password", 2),
                    granted("team/api", "key", U64_MAX)],
        "deks": [rand(f"release dek {n}") for n in range(3)]})
    base, base3 = (opening(c, ["ikm_e", "deks"], ["enc", "sealed"]) for c in (case, case3))
    item = base["granted"][0]
    return [
        case, case3,
        negative("flipped sealed", "tag", base, sealed=flip(base["sealed"], 0)),
        negative("flipped tag", "tag", base, sealed=flip(base["sealed"], -1)),
        negative("15 bytes", "length", base, sealed=base["sealed"][:30]),
        negative("flipped enc", "tag", base, enc=flip(base["enc"], 0)),
        negative("enc of zeros", "public key", base, enc="00" * 32),
        negative("values reordered", "tag", base3, granted=base3["granted"][::-1]),
        negative("one value less", "tag", base3, granted=base3["granted"][:2]),
        *(negative(f"value with another {k}", "tag", base, granted=[item | {k: v}]) for k, v in {
            "keyspace": "billing", "name": "dc", "secret": uuid("other secret"), "version": 2,
            "field": "username", "value": uuid("other value"), "ct_hash": flip(item["ct_hash"], 0)}.items()),
        *swaps(base, "tag", sk=rand("other agent sk"), store=OTHER_STORE, broker_id=BROKER[:-1] + "1",
               boot=uuid("other boot"), node_id=NODE[:-1] + "2", session=rand("other session", 16),
               nonce=rand("other nonce", 16), release=rand("other release", 16), leaf_hash=rand("other leaf hash"),
               volume="csi-" + rand("other volume id", 32), cluster="edge", namespace="shop2",
               pod_uid=POD_UID[:-1] + "5", container="sidecar"),
    ]


def setup_cases() -> list[Case]:
    ikm_e = rand("setup ikm_e")
    return [positive("release-setup", "a right key", {"pk": hpke.public_key(bytes.fromhex(rand("agent sk"))).hex(), "ikm_e": ikm_e}),
            negative("all zeros", "public key", {"ikm_e": ikm_e}, pk="00" * 32),
            negative("one (small order)", "public key", {"ikm_e": ikm_e}, pk="01" + "00" * 31),
            negative("31 bytes", "public key", {"ikm_e": ikm_e}, pk="09" * 31)]


def denial_cases() -> list[Case]:
    in_: Fields = {"k_denial": rand("k_denial"), "cluster": "local", "pod_uid": POD_UID, "volume_name": "secrets",
           "public_reason": "no grant lets local/shop/web/app read payments/db"}
    changed = {"cluster": "edge", "pod_uid": POD_UID[:-1] + "5", "volume_name": "tls",
               "public_reason": "the token names another node", "k_denial": rand("other k_denial")}
    return [positive("denial", "no grant", in_),
            *(positive("denial", f"another {k}", in_ | {k: v}) for k, v in changed.items())]


def generation_cases() -> list[Case]:
    def file(path: str, mode: int = 0o400, owner: str = "1000:-") -> Fields:
        return {"path": path, "mode": mode, "owner": owner, "value": uuid(f"file {path}")}

    cases = {
        "one file": (42, [file("password")]),
        "owner with a group": (42, [file("password", 0o440, "1000:2000")]),
        "in folders, out of order": (0x1F2E3D4C5B, [file("payments/db/username"), file("payments/db/password"),
                                                   file("payments-eu/db/password"), file("TLS.crt", 0o444, "0:0")]),
        "no file": (0, []),
        "largest seq": (U64_MAX, [file("ключ")]),
    }
    return [positive("generation", name, {"seq": seq, "files": files}) for name, (seq, files) in cases.items()]


def late_renewal_cases() -> list[Case]:
    in_: Fields = {"broker_id": BROKER, "certificate": rand("ended certificate", 420), "request": rand("next request", 190),
                   "version": "0.1.0", "at": 1_700_000_000_000}
    return [positive("late-renewal", "an hour's certificate", in_),
            positive("late-renewal", "no version", in_ | {"version": ""}),
            positive("late-renewal", "largest time", in_ | {"at": U64_MAX})]
