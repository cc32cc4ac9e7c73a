"""A whole backup opened with a slot's secret, every part of it: slot -> SRK -> keyring -> KEK -> DEK -> value.

Every row's tag, every table's set hash and count against the anchor, T against the head, every value's hash, and the end's
signature by the audit key that the keyring itself holds.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from . import anchor, backup, keyring, row, shares, slot, value, wrap
from .lp import u16
from .primitives import FORMAT, SUITE, Refused, ed25519_public, same, sha256

ROW_MAC, SET_HASH, ANCHOR_SEAL, ANCHOR_MAC, KEK_WRAP, AUDIT = 1, 2, 3, 4, 6, 7
BARE = ("anchor", "payload")
Bodies = dict[bytes, bytes]


# The state of a KEK that is gone.
DESTROYED = 4


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
    # KEYSPACE/NAME -> version -> field -> plaintext
    secrets: dict[str, dict[int, dict[str, bytes]]]


class Ring:
    def __init__(self, entries: list[keyring.Entry]) -> None:
        self._entries = entries

    def active(self, purpose: int) -> tuple[bytes, bytes]:
        """Id and key."""
        return next((id_, key) for of, state, _, id_, key in self._entries if (of, state) == (purpose, keyring.ACTIVE))

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


def open_values(store: bytes, tables: dict[str, backup.Rows], bodies: dict[str, Bodies],
                ring: Ring) -> dict[str, dict[int, dict[str, bytes]]]:
    keks: dict[bytes, bytes] = {}
    for key, body in bodies["kek"].items():
        keyspace, epoch = key[:-5].decode(), int.from_bytes(key[-4:], "big")
        fields = record(body)
        kek_id, state, wrap_id, wrapped = fields.bytes_(), fields.number(), fields.bytes_(), fields.bytes_()
        _created, _changed, _rate, _values = (fields.number() for _ in range(4))
        fields.end()
        if state != DESTROYED:
            aad = wrap.aad_kek(store, keyspace, epoch, kek_id)
            keks[kek_id] = wrap.open_(ring.of_id(KEK_WRAP, wrap_id), wrap_id, wrapped, aad)
    secrets: dict[str, dict[int, dict[str, bytes]]] = {}
    names = {record(body).bytes_(): path.decode() for path, body in bodies["head"].items()}
    for key, body in bodies["version"].items():
        secret, path = key[:16], names[key[:16]]
        fields = record(body)
        number = fields.number()
        values = {}
        for part in fields.list_():
            field, id_ = part.text(), part.bytes_()
            values[field] = open_value(store, path.split("/")[0], secret, field, id_, tables, bodies, keks)
        secrets.setdefault(path, {})[number] = values
    return secrets


def open_value(store: bytes, keyspace: str, secret: bytes, field: str, id_: bytes, tables: dict[str, backup.Rows],
               bodies: dict[str, Bodies], keks: dict[bytes, bytes]) -> bytes:
    fields = record(bodies["value-key"][id_])
    of_secret, kek_id, ct_hash, length, wrapped = (fields.bytes_() for _ in range(5))
    ct = tables["payload"][id_]
    if of_secret != secret or sha256(ct) != ct_hash or len(ct) != int.from_bytes(length, "big"):
        raise Refused("value")
    if kek_id + id_ not in bodies["kek-index"]:
        raise Refused("index")
    aad = wrap.aad_dek(store, keyspace, secret, id_, kek_id, ct_hash)
    dek = wrap.open_(keks[kek_id], kek_id, wrapped, aad)
    return value.open_(dek, ct, value.aad(store, keyspace, secret, id_, field))


def open_(data: bytes, given: Given) -> Opened:
    head, tables, end = backup.read_unverified(data)
    ring = open_ring(head.store, tables, given)
    _, seed = ring.active(AUDIT)
    backup.verify_end(data, head, end, ed25519_public(seed))
    bodies, sums = verify_rows(head.store, tables, ring)
    verify_anchor(head, tables, ring, sums)
    return Opened(head, sum(len(rows) for rows in tables.values()), open_values(head.store, tables, bodies, ring))
