"""Shares: a secret of 32 bytes in m shares of which any n give it back; Shamir over GF(256), byte by byte.

y_i        = secret + c_1 i + ... + c_(n-1) i^(n-1), i = 1 .. m, modulo x^8 + x^4 + x^3 + x + 1
share      = set 16 || i u8 || y_i 32
commitment = SHA-256(LP("attache/share/1", set, i u8, y_i))
set        = LP(set 16, n u8, [commitment])

file       = five lines, each with LF: "attache-share-1", "store " uuid, "slot " uuid, "share " i " of " m ", any " n " open the slot",
             base64url of the share without padding
"""

import base64
import binascii
import re
from dataclasses import dataclass

from .lp import lp
from .primitives import Refused, sha256

# Powers of the generator 3, and their logarithms.
_POWERS = [1]
for _ in range(254):
    _last = _POWERS[-1]
    _doubled = (_last << 1) ^ (0x11B if _last & 0x80 else 0)
    _POWERS.append(_doubled ^ _last)
_LOGS = {power: log for log, power in enumerate(_POWERS)}


def _times(a: int, b: int) -> int:
    return _POWERS[(_LOGS[a] + _LOGS[b]) % 255] if a and b else 0


def _over(a: int, b: int) -> int:
    return _POWERS[(_LOGS[a] - _LOGS[b]) % 255] if a else 0


def _power(a: int, n: int) -> int:
    return _POWERS[_LOGS[a] * n % 255]


def commitment(set_: bytes, index: int, y: bytes) -> bytes:
    return sha256(lp("attache/share/1", set_, bytes([index]), y))


def record(set_: bytes, threshold: int, commitments: list[bytes]) -> bytes:
    return lp(set_, bytes([threshold]), [(c,) for c in commitments])


def split(secret: bytes, threshold: int, count: int, set_: bytes, coefficients: bytes) -> list[bytes]:
    if not 2 <= threshold <= count <= 32 or len(coefficients) != 32 * (threshold - 1):
        raise Refused("threshold")
    shares = []
    for index in range(1, count + 1):
        y = bytearray(secret)
        for power in range(1, threshold):
            for at, c in enumerate(coefficients[32 * (power - 1):32 * power]):
                y[at] ^= _times(c, _power(index, power))
        shares.append(set_ + bytes([index]) + bytes(y))
    return shares


def combine(set_: bytes, threshold: int, commitments: list[bytes], shares: list[bytes]) -> bytes:
    known: dict[int, bytes] = {}
    for share in shares:
        of, index, y = share[:16], share[16], share[17:]
        if of != set_:
            raise Refused("other set")
        if not 1 <= index <= len(commitments) or commitment(of, index, y) != commitments[index - 1]:
            raise Refused("commitment")
        if index in known:
            raise Refused("twice")
        known[index] = y
    if len(known) < threshold:
        raise Refused("too few")
    used = dict(list(known.items())[:threshold])
    secret = bytearray(32)
    for index, y in used.items():
        weight = 1
        for other in used:
            if other != index:
                weight = _times(weight, _over(other, other ^ index))
        for at in range(32):
            secret[at] ^= _times(y[at], weight)
    return bytes(secret)


@dataclass(frozen=True)
class File:
    store: bytes
    slot: bytes
    threshold: int
    count: int
    share: bytes


_HEAD = "attache-share-1"
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_NUMBERS = re.compile(r"([1-9][0-9]?) of ([1-9][0-9]?), any ([1-9][0-9]?) open the slot")


def _uuid_text(raw: bytes) -> str:
    digits = raw.hex()
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def file_text(file: File) -> str:
    digits = base64.urlsafe_b64encode(file.share).decode().rstrip("=")
    numbers = f"share {file.share[16]} of {file.count}, any {file.threshold} open the slot"
    return f"{_HEAD}\nstore {_uuid_text(file.store)}\nslot {_uuid_text(file.slot)}\n{numbers}\n{digits}\n"


def parse_file(text: str) -> File:
    if not text.startswith(_HEAD):
        raise Refused("head")
    if not text.endswith("\n"):
        raise Refused("newline")
    head, *lines = text[:-1].split("\n", 4)
    if head != _HEAD:
        raise Refused("head")
    lines += [""] * (4 - len(lines))
    ids = []
    for name, line in zip(("store", "slot"), lines):
        if not line.startswith(f"{name} ") or not _UUID.fullmatch(line[len(name) + 1:]):
            raise Refused(name)
        ids.append(bytes.fromhex(line[len(name) + 1:].replace("-", "")))
    numbers = _NUMBERS.fullmatch(lines[2].removeprefix("share ")) if lines[2].startswith("share ") else None
    if numbers is None:
        raise Refused("numbers")
    index, count, threshold = map(int, numbers.groups())
    if not 2 <= threshold <= count <= 32 or index > count:
        raise Refused("numbers")
    digits = lines[3]
    if len(digits) != 66:
        raise Refused("length")
    try:
        share = base64.b64decode(digits + "==", altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise Refused("alphabet") from None
    if base64.urlsafe_b64encode(share).decode().rstrip("=") != digits:  # "+", "/" or spare bits that are not zero
        raise Refused("alphabet" if set(digits) & set("+/") else "spare bits")
    if share[16] != index:
        raise Refused("index")
    return File(ids[0], ids[1], threshold, count, share)


def read_record(data: bytes) -> tuple[bytes, int, list[bytes]]:
    """Set, threshold and commitments of a slot's parameters."""
    def take(rest: bytes, size: int) -> tuple[bytes, bytes]:
        if len(rest) < 4 + size or int.from_bytes(rest[:4], "big") != size:
            raise Refused("record")
        return rest[4:4 + size], rest[4 + size:]

    set_, rest = take(data, 16)
    threshold, rest = take(rest, 1)
    number, rest = take(rest, 4)
    commitments = []
    for _ in range(int.from_bytes(number, "big")):
        part, rest = take(rest, 36)
        commitments.append(take(part, 32)[0])
    if rest or not 2 <= threshold[0] <= len(commitments) <= 32:
        raise Refused("record")
    return set_, threshold[0], commitments
