"""DER (X.690) as far as certificates and keys need it, and PEM (RFC 7468) around it."""

import base64
import binascii

from .primitives import Refused

Item = tuple[int, bytes]


def tlv(tag: int, content: bytes) -> bytes:
    if len(content) < 0x80:
        return bytes([tag, len(content)]) + content
    length = len(content).to_bytes((len(content).bit_length() + 7) // 8)
    return bytes([tag, 0x80 | len(length)]) + length + content


def sequence(*items: bytes) -> bytes:
    return tlv(0x30, b"".join(items))


def integer(value: int) -> bytes:
    return tlv(0x02, value.to_bytes(value.bit_length() // 8 + 1))


def octets(content: bytes) -> bytes:
    return tlv(0x04, content)


def bits(content: bytes, spare: int = 0) -> bytes:
    return tlv(0x03, bytes([spare]) + content)


def oid(dotted: str) -> bytes:
    first, second, *rest = map(int, dotted.split("."))
    content = b""
    for arc in [40 * first + second, *rest]:
        septets = [arc & 0x7F]
        while arc := arc >> 7:
            septets.append(0x80 | arc & 0x7F)
        content += bytes(reversed(septets))
    return tlv(0x06, content)


def read(data: bytes) -> tuple[Item, bytes]:
    """The first item, and what stands behind it."""
    if len(data) < 2:
        raise Refused("DER")
    length, at = data[1], 2
    if length & 0x80:
        at += length & 0x7F
        length = int.from_bytes(data[2:at])
    if at + length > len(data) or tlv(data[0], data[at:at + length]) != data[:at + length]:
        raise Refused("DER")
    return (data[0], data[at:at + length]), data[at + length:]


def items(data: bytes, tag: int = 0x30) -> list[bytes]:
    """The parts of one constructed item that takes up all of the data, each with its head."""
    (found, content), rest = read(data)
    if found != tag or rest:
        raise Refused("DER")
    parts = []
    while content:
        _, after = read(content)
        parts.append(content[:len(content) - len(after)])
        content = after
    return parts


def content(data: bytes) -> bytes:
    (_, inner), rest = read(data)
    if rest:
        raise Refused("DER")
    return inner


def pem(label: str, der: bytes) -> str:
    body = base64.b64encode(der).decode()
    lines = [body[at:at + 64] for at in range(0, len(body), 64)]
    return "\n".join([f"-----BEGIN {label}-----", *lines, f"-----END {label}-----", ""])


def parse_pem(label: str, text: str) -> list[bytes]:
    """Every section of a text that has no other."""
    sections, end = [], f"-----END {label}-----\n"
    while text:
        body, found, text = text.removeprefix(f"-----BEGIN {label}-----\n").partition(end)
        try:
            sections.append(base64.b64decode(body.replace("\n", ""), validate=True))
        except (binascii.Error, ValueError):
            raise Refused("PEM") from None
        if not found or pem(label, sections[-1]) != f"-----BEGIN {label}-----\n{body}{end}":
            raise Refused("PEM")
    if not sections:
        raise Refused("PEM")
    return sections
