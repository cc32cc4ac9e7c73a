"""What is stored or handed over as text: join tokens, operators' codes, a volume's metadata, a broker's addresses, an operator's contexts, and
the words of our own around a message."""

import base64
import binascii
import json

from .lp import lp
from .primitives import STORE_FORMAT, Refused, sha256

# What each begins with, and the label of its hash.
ONE_TIME = {
    "join-token": ("attache-join-1:", "attache/join-token/1"),
    "operator-code": ("attache-operator-1:", "attache/operator-code/1"),
}


def one_time(kind: str, id_: bytes, secret: bytes, pin: bytes) -> str:
    prefix, _ = ONE_TIME[kind]
    return prefix + base64.urlsafe_b64encode(id_ + secret + pin).decode().rstrip("=")


def parse_one_time(kind: str, text: str) -> tuple[bytes, bytes, bytes]:
    prefix, _ = ONE_TIME[kind]
    if not text.startswith(prefix):
        raise Refused("prefix")
    body = text[len(prefix):]
    if len(body) != 107:
        raise Refused("length")
    try:
        data = base64.b64decode(body + "=", altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise Refused("alphabet") from None
    if one_time(kind, data[:16], data[16:48], data[48:]) != text:
        raise Refused("alphabet" if set(body) & set("+/") else "spare bits")
    return data[:16], data[16:48], data[48:]


def one_time_hash(kind: str, id_: bytes, secret: bytes) -> bytes:
    _, label = ONE_TIME[kind]
    return sha256(lp(label, id_, secret))


def metadata(incarnation: int, seq: int, digest: bytes, delivered_at: str, files: list[tuple[str, str, int]],
             missing: list[str], truncated: bool, file_set: bytes) -> str:
    """`.attache.json`: members in this order, no space, one line. Lists that are too long are left out and said to be."""
    told = {
        "format": 1,
        "generation": {"incarnation": incarnation, "seq": seq, "digest": digest.hex()},
        "deliveredAt": delivered_at,
        "files": [{"path": path, "ref": reference, "mode": f"{mode:04o}"} for path, reference, mode in files],
        "missing": missing,
        **({"truncated": True} if truncated else {}),
        "fileSet": file_set.hex(),
    }
    return json.dumps(told, separators=(",", ":"), ensure_ascii=False) + "\n"


def listen(grpc: str | None, enroll: str, metrics: str | None) -> str:
    """A sealed broker has no listener of mutual TLS."""
    first = f'"grpc": "{grpc}", ' if grpc else ""
    last = f', "metrics": "{metrics}"' if metrics else ""
    return f'{{{first}"enroll": "{enroll}"{last}}}\n'


def contexts(current: str | None, contexts_: dict[str, dict[str, str]]) -> str:
    """TOML, keys ascending; every value is a text."""
    lines = [f'current = "{current}"', ""] if current else []
    blocks = [[f"[contexts.{name}]", *(f'{key} = "{value}"' for key, value in sorted(context.items()))]
              for name, context in sorted(contexts_.items())]
    return "\n".join(lines + ["\n\n".join("\n".join(block) for block in blocks)]) + "\n"


def page_token(last: str) -> str:
    """The key of a page's last item; nothing behind the last page."""
    return last.encode().hex()


def parse_page_token(token: str) -> str:
    if len(token) > 1024:
        raise Refused("length")
    if len(token) % 2 or set(token) - set("0123456789abcdefABCDEF"):
        raise Refused("hex")
    try:
        return bytes.fromhex(token).decode()
    except UnicodeDecodeError:
        raise Refused("text") from None


def call_id(boot: bytes, call: int) -> str:
    """A broker's run and which of its calls."""
    return f"{boot[:4].hex()}-{call:x}"


def store_header(store: bytes, seq: int) -> dict[str, bytes]:
    """The table `attache` of a store."""
    return {"format": STORE_FORMAT.to_bytes(2), "store": store, "seq": seq.to_bytes(8)}
