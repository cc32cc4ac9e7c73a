"""What agent and mounter say to each other: messages of fixed size, and the memory file that carries a generation.

request = version u16 || verb u16 || id u32 || memfd size u64 || 0 x16 || volume                                   160
answer  = version u16 || verb u16 || id u32 || fault u16 || volumes u16 || errno u32 || flags u32 || files u32
          || seq u64 || digest prefix 8 || bytes u64 || file set 32 || 0 x48 || volume x16                       2,176
volume  = pod uid's length u8 || name's length u8 || pod uid, zeros to 63 || name, zeros to 63                     128
memfd   = "attache-" || format u16 || files u16 || incarnation u32 || seq u64 || digest 32 || metadata's length u32
          || 0 x4 || entries of 20 || paths || metadata || values
entry   = path's length u16 || mode u16 || owner u32 || group u32 || has group u32 || value's length u32
set     = SHA-256 of, by path: path's length u16 || path || mode u16 || owner u32 || group u32 || size u64
"""

from dataclasses import dataclass

from .lp import u16, u32, u64
from .primitives import Refused, sha256

VERSION = 1
VERBS = {"hello": 0, "attach": 1, "write": 2, "wipe": 3, "detach": 4, "list": 5, "stat": 6}
DONE, FAULTS = 0, range(1, 12)
FLAGS = {"hello": ("noswap", "inode_flags"), "attach": ("made",), "write": ("changed",), "wipe": ("changed",),
         "detach": ("was_mounted",), "list": ("more",), "stat": ("mounted", "whole", "generation", "complete")}
REQUEST_BYTES, ANSWER_BYTES, PAGE = 160, 2176, 16
METADATA = ".attache.json"
Volume = tuple[str, str]


@dataclass(frozen=True)
class Stat:
    files: int = 0
    seq: int = 0
    digest_prefix: bytes = bytes(8)
    bytes_: int = 0
    file_set: bytes = bytes(32)


@dataclass(frozen=True)
class File:
    path: str
    mode: int
    uid: int
    gid: int | None
    value: bytes


def _volume(volume: Volume | None) -> bytes:
    pod, name = (part.encode() for part in volume or ("", ""))
    return bytes([len(pod), len(name)]) + pod.ljust(63, b"\0") + name.ljust(63, b"\0")


def _parse_volume(data: bytes) -> Volume | None:
    texts = []
    for length, field in ((data[0], data[2:65]), (data[1], data[65:128])):
        if length > 63 or any(field[length:]):
            raise Refused("volume")
        texts.append(field[:length].decode())
    if texts == ["", ""]:
        return None
    pod, name = texts
    if not pod or not name:
        raise Refused("volume")
    return pod, name


def request(verb: str, id_: int, memfd_bytes: int, volume: Volume | None) -> bytes:
    return u16(VERSION) + u16(VERBS[verb]) + u32(id_) + u64(memfd_bytes) + bytes(16) + _volume(volume)


def parse_request(data: bytes) -> tuple[str, int, int, Volume | None]:
    if len(data) != REQUEST_BYTES:
        raise Refused("length")
    if data[:2] != u16(VERSION):
        raise Refused("version")
    verb = _verb(data)
    if any(data[16:32]):
        raise Refused("zeros")
    memfd_bytes, volume = int.from_bytes(data[8:16], "big"), _parse_volume(data[32:])
    if memfd_bytes and verb != "write":
        raise Refused("memfd size")
    if volume is None and verb != "list":
        raise Refused("volume")
    return verb, int.from_bytes(data[4:8], "big"), memfd_bytes, volume


def _verb(data: bytes) -> str:
    number = int.from_bytes(data[2:4], "big")
    verb = next((verb for verb, known in VERBS.items() if known == number), None)
    if verb in (None, "hello"):
        raise Refused("verb")
    return verb


def answer(verb: str, id_: int, fault: int, errno: int, flags: list[str], stat: Stat, volumes: list[Volume]) -> bytes:
    bits = sum(1 << FLAGS[verb].index(flag) for flag in flags)
    page = b"".join(map(_volume, volumes)).ljust(128 * PAGE, b"\0")
    return (u16(VERSION) + u16(VERBS[verb]) + u32(id_) + u16(fault) + u16(len(volumes)) + u32(errno)
            + u32(bits) + u32(stat.files) + u64(stat.seq) + stat.digest_prefix + u64(stat.bytes_) + stat.file_set
            + bytes(48) + page)


def parse_answer(verb: str, id_: int, data: bytes) -> tuple[int, int, list[str], Stat, list[Volume]]:
    """The answer to a request that is known; it must be what its encoder would write."""
    if len(data) != ANSWER_BYTES:
        raise Refused("length")
    if data[:2] != u16(VERSION):
        raise Refused("version")
    if data[2:4] != u16(VERBS[verb]) or data[4:8] != u32(id_):
        raise Refused("another request")

    def number(at: int, size: int) -> int:
        return int.from_bytes(data[at:at + size], "big")

    fault = number(8, 2)
    if fault != DONE and fault not in FAULTS:
        raise Refused("fault")
    count = number(10, 2)
    if count > PAGE:
        raise Refused("volumes")
    page = [_parse_volume(data[at:at + 128]) for at in range(128, 128 + 128 * count, 128)]
    named = [volume for volume in page if volume is not None]
    if len(named) != count:
        raise Refused("volume")
    done, stat, errno, bits = fault == DONE, Stat(), number(12, 4), number(16, 4)
    flags = [flag for n, flag in enumerate(FLAGS[verb]) if done and bits >> n & 1]
    if done and verb == "stat":
        held = (number(24, 8), data[32:40]) if "generation" in flags else (0, bytes(8))
        stat = Stat(number(20, 4), *held, number(40, 8), data[48:80])
    told = answer(verb, id_, fault, 0 if done else errno & 0xFFFF, flags, stat, named if done and verb == "list" else [])
    if told != data:
        raise Refused("canonical")
    return fault, errno, flags, stat, named


def file_set(files: list[File]) -> bytes:
    data = b""
    for f in sorted(files, key=lambda f: f.path.encode()):
        path = f.path.encode()
        data += u16(len(path)) + path + u16(f.mode) + u32(f.uid) + u32(f.gid or 0) + u64(len(f.value))
    return sha256(data)


def memfd(incarnation: int, seq: int, digest: bytes, files: list[File], metadata: bytes) -> bytes:
    files = sorted(files, key=lambda f: f.path.encode())
    head = (b"attache-" + u16(1) + u16(len(files)) + u32(incarnation) + u64(seq) + digest + u32(len(metadata))
            + bytes(4))
    entries = b"".join(u16(len(f.path.encode())) + u16(f.mode) + u32(f.uid) + u32(f.gid or 0)
                       + u32(f.gid is not None) + u32(len(f.value)) for f in files)
    return head + entries + b"".join(f.path.encode() for f in files) + metadata + b"".join(f.value for f in files)


def parse_memfd(data: bytes) -> tuple[int, int, bytes, list[File], bytes]:
    if data[:8] != b"attache-" or data[8:10] != u16(1) or len(data) < 64 or any(data[60:64]):
        raise Refused("frame")

    def number(at: int, size: int) -> int:
        return int.from_bytes(data[at:at + size], "big")

    count, metadata_len = number(10, 2), number(56, 4)
    if count > 256 or metadata_len > 64 * 1024:
        raise Refused("limit")
    lengths, rest = [], 64 + 20 * count
    if len(data) < rest:
        raise Refused("frame")
    for at in range(64, rest, 20):
        lengths.append((number(at, 2), number(at + 2, 2), number(at + 4, 4), number(at + 8, 4), number(at + 12, 4),
                        number(at + 16, 4)))
    paths, files = [], []
    for path_len, *_ in lengths:
        if rest + path_len > len(data):
            raise Refused("frame")
        try:
            paths.append(data[rest:rest + path_len].decode())
        except UnicodeDecodeError:
            raise Refused("path") from None
        rest += path_len
    metadata, rest = data[rest:rest + metadata_len], rest + metadata_len
    for path, (_, mode, uid, gid, has_gid, size) in zip(paths, lengths):
        if has_gid > 1:
            raise Refused("frame")
        if not _is_canonical(path):
            raise Refused("path")
        if files and files[-1].path.encode() >= path.encode():
            raise Refused("order")
        if 0xFFFFFFFF in (uid, gid) or (not has_gid and gid):
            raise Refused("owner")
        if mode & ~0o444 or (not has_gid and mode & 0o040):
            raise Refused("mode")
        files.append(File(path, mode, uid, gid if has_gid else None, data[rest:rest + size]))
        rest += size
    if any(f"{folder.path}/" == f.path[:len(folder.path) + 1] for folder in files for f in files):
        raise Refused("folder")
    if sum(len(f.value) for f in files) > 1 << 20:
        raise Refused("limit")
    if rest != len(data):
        raise Refused("frame")
    return number(12, 4), number(16, 8), data[24:56], files, metadata


def _is_canonical(path: str) -> bool:
    parts = path.split("/")
    return (len(path.encode()) <= 1024 and len(parts) <= 8 and parts[0] != METADATA
            and all(part and part != "." and not part.startswith("..") and len(part.encode()) <= 255
                    and not any(ord(c) < 32 or 127 <= ord(c) < 160 for c in part) for part in parts))
