"""The files of a release as they travel: four fields of the message `Released`, in protobuf, and what its digest covers.

message    = generation 1 || files 11 || owner_uid 12 || owner_gid 13
generation = incarnation 1, seq 2, digest 3;  file = path 1, mode 2, value 3, an index into the values
"""

from . import generation
from .primitives import Refused

FILES_MAX = 256
File = tuple[str, int, int]
Told = tuple[int, int, bytes, list[File], int, int | None]


def _varint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out, value = out + bytes([value & 0x7F | 0x80]), value >> 7
    return out + bytes([value])


def _number(field: int, value: int | None) -> bytes:
    """Absent for zero, as proto3 has it."""
    return _varint(field << 3) + _varint(value) if value else b""


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _owner(uid: int, gid: int | None) -> str:
    return f"{uid}:{'-' if gid is None else gid}"


def digest(files: list[File], uid: int, gid: int | None, values: list[bytes]) -> bytes:
    return generation.digest([(path, mode, _owner(uid, gid), values[value]) for path, mode, value in files])


def message(incarnation: int, seq: int, digest_: bytes, files: list[File], uid: int, gid: int | None) -> bytes:
    """Writes what it is given, in that order."""
    out = _bytes(1, _number(1, incarnation) + _number(2, seq) + _bytes(3, digest_))
    for path, mode, value in files:
        out += _bytes(11, _bytes(1, path.encode()) + _number(2, mode) + _number(3, value))
    # `optional`: a group 0 is there.
    group = _varint(13 << 3) + _varint(gid) if gid is not None else b""
    return out + _number(12, uid) + group


def build(incarnation: int, seq: int, files: list[File], uid: int, gid: int | None, values: list[bytes]) -> tuple[bytes, bytes]:
    in_order = sorted(files, key=lambda f: f[0].encode())
    digest_ = digest(in_order, uid, gid, values)
    return digest_, message(incarnation, seq, digest_, in_order, uid, gid)


def _fields(data: bytes) -> list[tuple[int, int | bytes]]:
    def varint() -> int:
        nonlocal data
        value = shift = 0
        while True:
            if not data:
                raise Refused("message")
            byte, data = data[0], data[1:]
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    fields: list[tuple[int, int | bytes]] = []
    while data:
        key = varint()
        if key & 7 == 0:
            fields.append((key >> 3, varint()))
        elif key & 7 == 2 and (size := varint()) <= len(data):
            fields.append((key >> 3, data[:size]))
            data = data[size:]
        else:
            raise Refused("message")
    return fields


def parse(data: bytes, values: list[bytes]) -> Told:
    """Believed once every value has a file, every file a value, and the digest is theirs."""
    fields = _fields(data)
    single = dict(fields)
    told = dict(_fields(single.get(1, b"")))
    files = []
    for _, file in (f for f in fields if f[0] == 11):
        parts = dict(_fields(file))
        files.append((parts[1].decode(), parts.get(2, 0), parts.get(3, 0)))
    if len(files) > FILES_MAX:
        raise Refused("count")
    if {value for _, _, value in files} != set(range(len(values))):
        raise Refused("value")
    if any(mode > 0xFFFF for _, mode, _ in files):
        raise Refused("mode")
    if len({path for path, _, _ in files}) != len(files):
        raise Refused("path")
    uid, gid = single.get(12, 0), single.get(13)
    if digest(files, uid, gid, values) != told.get(3):
        raise Refused("digest")
    return told.get(1, 0), told.get(2, 0), told[3], files, uid, gid
