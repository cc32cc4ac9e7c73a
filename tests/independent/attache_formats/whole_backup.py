"""A whole backup opened with a slot's secret, every part of it: slot -> SRK -> keyring -> KEK -> DEK -> value.

Every row's tag, every table's set hash and count against the anchor, T against the head, every value's hash, and the end's
signature by the audit key that the keyring itself holds.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from . import anchor, backup, keyring, row, shares, slot, value, wrap
from .lp import u16
from .primitives import FORMAT, STORE_FORMAT, SUITE, Refused, ed25519_public, same, sha256

ROW_MAC, SET_HASH, ANCHOR_SEAL, ANCHOR_MAC, KEK_WRAP, AUDIT = 1, 2, 3, 4, 6, 7
BARE = ("anchor", "kek-index", "payload")
Bodies = dict[bytes, bytes]


# The states of a KEK, and of a keyspace.
KEK_STATES = {1: "active", 2: "decrypt-only", 3: "retired", 4: "destroyed"}
KEYSPACE_STATES = {1: "active", 2: "destroyed", 3: "removing"}


class Fields:
    """The fields of an LP, in order; nothing may be left."""

    def __init__(self, data: bytes) -> None:
        self._rest = data

    def bytes_(self) -> bytes:
        if len(self._rest) < 4:
            raise Refused("LP")
        length = int.from_bytes(self._rest[:4], "big")
        if len(self._rest) < 4 + length:
            raise Refused("LP")
        field, self._rest = self._rest[4:4 + length], self._rest[4 + length:]
        return field

    def number(self) -> int:
        return int.from_bytes(self.bytes_(), "big")

    def text(self) -> str:
        return self.bytes_().decode()

    def list_(self) -> Iterator["Fields"]:
        for _ in range(self.number()):
            yield Fields(self.bytes_())

    def end(self) -> None:
        if self._rest:
            raise Refused("LP")


def record(data: bytes) -> Fields:
    if data[:2] != u16(FORMAT):
        raise Refused("format")
    if data[2:4] != u16(SUITE):
        raise Refused("suite")
    return Fields(data[4:])


@dataclass(frozen=True)
class Opened:
    head: backup.Head
    rows: int
    # KEYSPACE/NAME -> version -> field -> plaintext; those of a keyspace that is being removed are not there
    secrets: dict[str, dict[int, dict[str, bytes]]]
    # keyspace -> state
    keyspaces: dict[str, str]
    # KEYSPACE@EPOCH -> state, and how many values it wraps
    keys: dict[str, tuple[str, int]]
    # The epochs of the keys that rows have tags of
    macs: list[int]
    # purpose -> the epochs of its keys in the keyring
    ring: dict[int, list[int]]


class Ring:
    def __init__(self, entries: list[keyring.Entry]) -> None:
        self._entries = entries

    def active(self, purpose: int) -> tuple[bytes, bytes]:
        """Id and key."""
        return next((id_, key) for of, state, _, id_, key in self._entries if (of, state) == (purpose, keyring.ACTIVE))

    def epochs(self) -> dict[int, list[int]]:
        purposes = sorted({purpose for purpose, *_ in self._entries})
        return {purpose: [epoch for of, _, epoch, _, _ in self._entries if of == purpose] for purpose in purposes}

    def of_epoch(self, purpose: int, epoch: int) -> bytes:
        return self._one(key for of, _, at, _, key in self._entries if (of, at) == (purpose, epoch))

    def of_id(self, purpose: int, id_: bytes) -> bytes:
        return self._one(key for of, _, _, known, key in self._entries if (of, known) == (purpose, id_))

    @staticmethod
    def _one(keys: Iterator[bytes]) -> bytes:
        for key in keys:
            return key
        raise Refused("no such key")


def _unverified_body(stored: bytes) -> bytes:
    return stored[14:-32]


# A slot's secret itself, or some of its shares.
Given = bytes | list[shares.File]


def secret_of(given: Given, store: bytes, id_: bytes, parameters: bytes) -> bytes:
    """What is given of a slot as its secret: shares by the set in its row."""
    if isinstance(given, bytes):
        return given
    if any(file.store != store for file in given):
        raise Refused("other store")
    if any(file.slot != id_ for file in given):
        raise Refused("other slot")
    set_, threshold, commitments = shares.read_record(parameters)
    if any((file.threshold, file.count) != (threshold, len(commitments)) for file in given):
        raise Refused("numbers")
    return shares.combine(set_, threshold, commitments, [file.share for file in given])


def open_ring(store: bytes, tables: dict[str, backup.Rows], given: Given) -> Ring:
    """The keyring, by the first slot that the secret fits, whatever it was had from; by shares, the slot that they name."""
    sealed = record(_unverified_body(tables["meta"][b"keyring"]))
    number, ct = sealed.number(), sealed.bytes_()
    sealed.end()
    for stored in tables["slot"].values():
        fields = record(_unverified_body(stored))
        id_, kind, parameters, pk, blob = (fields.bytes_() for _ in range(5))
        of_number, enc, seal, signature = fields.number(), *(fields.bytes_() for _ in range(3))
        _name, _created, _verified = fields.text(), fields.number(), fields.number()
        fields.end()
        if not isinstance(given, bytes) and (kind != b"shares" or id_ != given[0].slot):
            continue
        secret = secret_of(given, store, id_, parameters)
        try:
            opened = wrap.open_(secret, id_, blob, wrap.aad_slot(store, id_, kind.decode(), parameters))
        except Refused:
            continue
        srk = slot.open_srk(opened, store, id_, of_number, enc, seal, signature)
        if of_number != number:
            raise Refused("number")
        return Ring(keyring.parse_record(keyring.open_(srk, store, number, ct)))
    raise Refused("no slot")


def verify_rows(store: bytes, tables: dict[str, backup.Rows], ring: Ring) -> tuple[dict[str, Bodies], list[anchor.Table]]:
    """The body of every row, and what the tables sum up to."""
    bodies: dict[str, Bodies] = {}
    sums: list[anchor.Table] = []
    _, set_key = ring.active(SET_HASH)
    for name, rows in tables.items():
        if name in BARE:
            continue
        total = bytes(32)
        bodies[name] = {}
        for key, stored in rows.items():
            mac = ring.of_epoch(ROW_MAC, int.from_bytes(stored[2:6], "big"))
            bodies[name][key] = row.verify(mac, store, name, key, stored)
            total = row.set_add(total, row.set_element(set_key, store, name, key, stored[-32:]))
        sums.append((name, total, len(rows)))
    return bodies, sums


def verify_anchor(head: backup.Head, tables: dict[str, backup.Rows], ring: Ring, sums: list[anchor.Table]) -> None:
    fields = record(tables["anchor"][b""])
    incarnation, seq, key_id, wrapped = fields.number(), fields.number(), fields.bytes_(), fields.bytes_()
    fields.end()
    if (incarnation, seq) != (head.incarnation, head.seq):
        raise Refused("anchor of another state")
    plain = Fields(wrap.open_(ring.of_id(ANCHOR_SEAL, key_id), key_id, wrapped, wrap.aad_anchor(head.store, incarnation, seq)))
    t_prev = plain.bytes_()
    anchored = [(of.text(), of.bytes_(), of.number()) for of in plain.list_()]
    heads = [(of.bytes_(), of.number(), of.bytes_()) for of in plain.list_()]
    plain.end()
    known = {name: (total, count) for name, total, count in anchored}
    for name, total, count in sums:
        if known.pop(name, (bytes(32), 0)) != (total, count):
            raise Refused(f"set of {name}")
    if known:
        raise Refused("a table is missing")
    _, mac = ring.active(ANCHOR_MAC)
    if not same(anchor.chain(mac, head.store, incarnation, seq, t_prev, anchored, heads), head.anchor_t):
        raise Refused("T")


@dataclass(frozen=True)
class Kek:
    keyspace: str
    epoch: int
    state: str
    # None when it is destroyed
    key: bytes | None


def open_keks(store: bytes, bodies: dict[str, Bodies], ring: Ring) -> dict[bytes, Kek]:
    keks: dict[bytes, Kek] = {}
    for key, body in bodies["kek"].items():
        keyspace, epoch = key[:-5].decode(), int.from_bytes(key[-4:], "big")
        fields = record(body)
        kek_id, state, wrap_id, wrapped = fields.bytes_(), KEK_STATES.get(fields.number()), fields.bytes_(), fields.bytes_()
        _created, _changed, _rate, _values = (fields.number() for _ in range(4))
        fields.end()
        if state is None or kek_id in keks or (state == "destroyed") != (wrap_id == wrapped == b""):
            raise Refused("KEK")
        plain = None
        if state != "destroyed":
            plain = wrap.open_(ring.of_id(KEK_WRAP, wrap_id), wrap_id, wrapped, wrap.aad_kek(store, keyspace, epoch, kek_id))
        keks[kek_id] = Kek(keyspace, epoch, state, plain)
    return keks


def read_keyspaces(bodies: dict[str, Bodies], keks: dict[bytes, Kek]) -> dict[str, str]:
    """The state of each, held against its KEKs: one active one, of its epoch; all of them destroyed where it is not active."""
    states: dict[str, str] = {}
    for key, body in bodies["keyspace"].items():
        fields = record(body)
        state, epoch = KEYSPACE_STATES.get(fields.number()), fields.number()
        if state is None:
            raise Refused("keyspace")
        states[key.decode()] = state
        of_it = [kek for kek in keks.values() if kek.keyspace == key.decode()]
        active = [kek.epoch for kek in of_it if kek.state == "active"]
        if active != ([epoch] if state == "active" else []) or (state != "active" and any(kek.key for kek in of_it)):
            raise Refused("keys of a keyspace")
    if any(kek.keyspace not in states for kek in keks.values()):
        raise Refused("a key of no keyspace")
    return states


def count_values(index: backup.Rows, bodies: dict[str, Bodies], keks: dict[bytes, Kek], states: dict[str, str]) -> dict[bytes, int]:
    """How many values each KEK wraps: index and value keys agree, and what is not to be named is not."""
    named: dict[bytes, int] = dict.fromkeys(keks, 0)
    indexed = {(key[:16], key[16:]) for key in index}
    wrapped = set()
    for id_, body in bodies["value-key"].items():
        fields = record(body)
        _secret, kek_id = fields.bytes_(), fields.bytes_()
        wrapped.add((kek_id, id_))
        if kek_id not in keks:
            raise Refused("a value of no key")
        named[kek_id] += 1
    if indexed != wrapped or any(index.values()):
        raise Refused("index")
    for kek_id, count in named.items():
        kek = keks[kek_id]
        if count and kek.state in ("retired", "destroyed") and states[kek.keyspace] != "removing":
            raise Refused("a value of a key that is over")
    return named


def open_values(store: bytes, tables: dict[str, backup.Rows], bodies: dict[str, Bodies], keks: dict[bytes, Kek],
                states: dict[str, str]) -> dict[str, dict[int, dict[str, bytes]]]:
    removing = {name for name, state in states.items() if state == "removing"}
    secrets: dict[str, dict[int, dict[str, bytes]]] = {}
    names = {record(body).bytes_(): path.decode() for path, body in bodies["head"].items()}
    for key, body in bodies["version"].items():
        secret, path = key[:16], names.get(key[:16])
        # Of a keyspace that is being removed the head may be gone, and values of a version that is still there.
        if path is None and not removing:
            raise Refused("a version without a head")
        if path is None or path.split("/")[0] in removing:
            continue
        if states.get(path.split("/")[0]) != "active":
            raise Refused("a secret of a keyspace that is gone")
        fields = record(body)
        number = fields.number()
        values = {}
        for part in fields.list_():
            field, id_ = part.text(), part.bytes_()
            values[field] = open_value(store, path.split("/")[0], secret, field, id_, tables, bodies, keks)
        secrets.setdefault(path, {})[number] = values
    return secrets


def open_value(store: bytes, keyspace: str, secret: bytes, field: str, id_: bytes, tables: dict[str, backup.Rows],
               bodies: dict[str, Bodies], keks: dict[bytes, Kek]) -> bytes:
    if id_ not in bodies["value-key"] or id_ not in tables["payload"]:
        raise Refused("a version names a value that is gone")
    fields = record(bodies["value-key"][id_])
    of_secret, kek_id, ct_hash, length, wrapped = (fields.bytes_() for _ in range(5))
    ct = tables["payload"][id_]
    if of_secret != secret or sha256(ct) != ct_hash or len(ct) != int.from_bytes(length, "big"):
        raise Refused("value")
    kek = keks[kek_id]
    if kek.key is None or kek.keyspace != keyspace:
        raise Refused("a value of another key")
    aad = wrap.aad_dek(store, keyspace, secret, id_, kek_id, ct_hash)
    dek = wrap.open_(kek.key, kek_id, wrapped, aad)
    return value.open_(dek, ct, value.aad(store, keyspace, secret, id_, field))


def open_(data: bytes, given: Given) -> Opened:
    head, tables, end = backup.read_unverified(data)
    if head.store_format != STORE_FORMAT:
        raise Refused("store format")
    ring = open_ring(head.store, tables, given)
    _, seed = ring.active(AUDIT)
    backup.verify_end(data, head, end, ed25519_public(seed))
    bodies, sums = verify_rows(head.store, tables, ring)
    verify_anchor(head, tables, ring, sums)
    keks = open_keks(head.store, bodies, ring)
    states = read_keyspaces(bodies, keks)
    named = count_values(tables["kek-index"], bodies, keks, states)
    tagged = {int.from_bytes(stored[2:6], "big") for name, rows in tables.items() if name not in BARE for stored in rows.values()}
    return Opened(head, sum(len(rows) for rows in tables.values()), open_values(head.store, tables, bodies, keks, states), states,
                  {f"{kek.keyspace}@{kek.epoch}": (kek.state, named[id_]) for id_, kek in keks.items()}, sorted(tagged),
                  ring.epochs())
