"""Certificates, certificate requests and keys: the one profile of X.509, PKCS#10 and PKCS#8 that is written.

serial = 16 random bytes, of the first the high bit 0 and the one below it 1
key id = SHA-256(SubjectPublicKeyInfo)[..20]
CA     = subject CN name; URI spiffe://TRUST_DOMAIN; keyUsage certSign, crlSign; subjectKeyIdentifier; CA:true pathLen 0
leaf   = no subject; authorityKeyIdentifier; URI the SPIFFE ID, critical; keyUsage digitalSignature; clientAuth, before it
         serverAuth for a broker; subjectKeyIdentifier; CA:false
"""

from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from . import der
from .primitives import Refused, ed25519_public, ed25519_sign, ed25519_verify, sha256

BACKDATE, DAY = 60, 24 * 3600
CA_LENGTH = 3650 * DAY
LENGTHS = {"node": 3600, "operator": DAY, "broker": 90 * DAY}

ED25519 = der.sequence(der.oid("1.3.101.112"))
P256 = der.sequence(der.oid("1.2.840.10045.2.1"), der.oid("1.2.840.10045.3.1.7"))
ECDSA_SHA256 = der.sequence(der.oid("1.2.840.10045.4.3.2"))
COMMON_NAME = "2.5.4.3"
AUTHORITY_KEY_ID, SUBJECT_KEY_ID, ALT_NAME = "2.5.29.35", "2.5.29.14", "2.5.29.17"
KEY_USAGE, EXTENDED_USAGE, CONSTRAINTS = "2.5.29.15", "2.5.29.37", "2.5.29.19"
SERVER, CLIENT = der.oid("1.3.6.1.5.5.7.3.1"), der.oid("1.3.6.1.5.5.7.3.2")
NO_NAME = der.sequence()


def serial(random: bytes) -> bytes:
    return bytes([random[0] & 0x7F | 0x40]) + random[1:]


def ed25519_spki(public: bytes) -> bytes:
    return der.sequence(ED25519, der.bits(public))


def key_id(spki: bytes) -> bytes:
    return sha256(spki)[:20]


def name(common_name: str) -> bytes:
    attribute = der.sequence(der.oid(COMMON_NAME), der.tlv(0x0C, common_name.encode()))
    return der.sequence(der.tlv(0x31, attribute))


def time(at: int) -> bytes:
    """UTCTime before 2050, GeneralizedTime from then on."""
    told = datetime.fromtimestamp(at, UTC)
    if told.year < 2050:
        return der.tlv(0x17, told.strftime("%y%m%d%H%M%SZ").encode())
    return der.tlv(0x18, told.strftime("%Y%m%d%H%M%SZ").encode())


def parse_time(item: bytes) -> int:
    text = der.content(item).decode()
    full = text if item[0] == 0x18 else f"20{text}"
    return int(datetime.strptime(full, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp())


def extension(id_: str, critical: bool, value: bytes) -> bytes:
    flag = der.tlv(0x01, b"\xff") if critical else b""
    return der.sequence(der.oid(id_), flag, der.octets(value))


def uris(critical: bool, *names: str) -> bytes:
    return extension(ALT_NAME, critical, der.sequence(*(der.tlv(0x86, uri.encode()) for uri in names)))


def ca_extensions(domain_id: str, spki: bytes) -> list[bytes]:
    return [
        uris(False, domain_id),
        extension(KEY_USAGE, True, der.bits(b"\x06", 1)),
        extension(SUBJECT_KEY_ID, False, der.octets(key_id(spki))),
        extension(CONSTRAINTS, True, der.sequence(der.tlv(0x01, b"\xff"), der.integer(0))),
    ]


def leaf_extensions(id_: str, spki: bytes, ca_spki: bytes) -> list[bytes]:
    uses = [SERVER, CLIENT] if kind(id_) == "broker" else [CLIENT]
    return [
        extension(AUTHORITY_KEY_ID, False, der.sequence(der.tlv(0x80, key_id(ca_spki)))),
        uris(True, id_),
        extension(KEY_USAGE, True, der.bits(b"\x80", 7)),
        extension(EXTENDED_USAGE, False, der.sequence(*uses)),
        extension(SUBJECT_KEY_ID, False, der.octets(key_id(spki))),
        extension(CONSTRAINTS, True, der.sequence()),
    ]


def kind(id_: str) -> str:
    kind_ = id_.removeprefix("spiffe://").split("/")[1:2]
    if not kind_ or kind_[0] not in LENGTHS:
        raise Refused("profile")
    return kind_[0]


def tbs(serial_: bytes, issuer: bytes, begin: int, end: int, subject: bytes, spki: bytes, extensions: list[bytes]) -> bytes:
    return der.sequence(
        der.tlv(0xA0, der.integer(2)), der.tlv(0x02, serial_), ED25519, issuer, der.sequence(time(begin), time(end)),
        subject, spki, der.tlv(0xA3, der.sequence(*extensions)))


def signed(seed: bytes, tbs_: bytes) -> bytes:
    return der.sequence(tbs_, ED25519, der.bits(ed25519_sign(seed, tbs_)))


@dataclass(frozen=True)
class Certificate:
    """What is taken from one."""

    tbs: bytes
    serial: bytes
    issuer: bytes
    begin: int
    end: int
    subject: bytes
    spki: bytes
    extensions: list[bytes]
    signature: bytes

    @property
    def uri(self) -> str:
        for item in self.extensions:
            id_, *_, value = der.items(item)
            if id_ == der.oid(ALT_NAME):
                first = der.items(der.content(value))[:1]
                return der.content(first[0]).decode() if first else ""
        raise Refused("profile")


def parse(data: bytes) -> Certificate:
    tbs_, algorithm, signature = der.items(data)
    parts = der.items(tbs_)
    if len(parts) != 8 or parts[2] != ED25519 or algorithm != ED25519:
        raise Refused("profile")
    _, serial_, _, issuer, validity, subject, spki, extensions = parts
    begin, end = map(parse_time, der.items(validity))
    return Certificate(tbs_, der.content(serial_), issuer, begin, end, subject, spki,
                       der.items(der.content(extensions)), der.content(signature)[1:])


def ca(seed: bytes, domain: str, common_name: str, made: int, random: bytes) -> bytes:
    spki, own = ed25519_spki(ed25519_public(seed)), name(common_name)
    return signed(seed, tbs(serial(random), own, made - BACKDATE, made + CA_LENGTH, own, spki,
                            ca_extensions(f"spiffe://{domain}", spki)))


def open_ca(data: bytes) -> Certificate:
    """One that `ca` writes, and nothing else."""
    found = parse(data)
    if found.spki[:-32] != ed25519_spki(bytes(32))[:-32]:
        raise Refused("profile")
    ed25519_verify(found.spki[-32:], found.signature, found.tbs)
    whole = tbs(serial(found.serial), found.subject, found.begin, found.end, found.subject, found.spki,
                ca_extensions(found.uri, found.spki))
    if whole != found.tbs or len(found.serial) != 16 or "/" in found.uri.removeprefix("spiffe://"):
        raise Refused("profile")
    return found


def leaf(seed: bytes, ca_: bytes, spki: bytes, id_: str, made: int, random: bytes) -> bytes:
    issuer = open_ca(ca_)
    begin, end = max(made - BACKDATE, issuer.begin), min(made + LENGTHS[kind(id_)], issuer.end)
    return signed(seed, tbs(serial(random), issuer.subject, begin, end, NO_NAME, spki,
                            leaf_extensions(id_, spki, issuer.spki)))


def open_leaf(data: bytes, ca_: bytes) -> Certificate:
    """One that `leaf` writes under that CA, and nothing else."""
    issuer, found = open_ca(ca_), parse(data)
    ed25519_verify(issuer.spki[-32:], found.signature, found.tbs)
    whole = tbs(serial(found.serial), issuer.subject, found.begin, found.end, NO_NAME, found.spki,
                leaf_extensions(found.uri, found.spki, issuer.spki))
    if whole != found.tbs or len(found.serial) != 16:
        raise Refused("profile")
    return found


# Keys of leaves: P-256

def _private(scalar: bytes) -> ec.EllipticCurvePrivateKey:
    return ec.derive_private_key(int.from_bytes(scalar), ec.SECP256R1())


def point(scalar: bytes) -> bytes:
    return _private(scalar).public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


def p256_spki(scalar: bytes) -> bytes:
    return der.sequence(P256, der.bits(point(scalar)))


def key_pem(scalar: bytes) -> str:
    """PKCS#8 around an ECPrivateKey (RFC 5915) that names no curve again and has its public key."""
    inner = der.sequence(der.integer(1), der.octets(scalar), der.tlv(0xA1, der.bits(point(scalar))))
    return der.pem("PRIVATE KEY", der.sequence(der.integer(0), P256, der.octets(inner)))


def parse_key_pem(text: str) -> bytes:
    keys = der.parse_pem("PRIVATE KEY", text)
    scalar = der.content(der.items(der.content(der.items(keys[0])[-1]))[1])
    if key_pem(scalar) != text:
        raise Refused("key")
    return scalar


def request_info(scalar: bytes) -> bytes:
    """What a request is signed over: version 0, no subject, the key, no attribute."""
    return der.sequence(der.integer(0), NO_NAME, p256_spki(scalar), der.tlv(0xA0, b""))


def request(scalar: bytes) -> bytes:
    """Signed with the nonce of RFC 6979, so that it is the same each time; a request may have any nonce."""
    info = request_info(scalar)
    signature = _private(scalar).sign(info, ec.ECDSA(SHA256(), deterministic_signing=True))
    return der.sequence(info, ECDSA_SHA256, der.bits(signature))


def open_request(data: bytes) -> bytes:
    """The key of a request that proved its possession."""
    if len(data) > 4096:
        raise Refused("length")
    info, algorithm, signature = der.items(data)
    spki = der.items(info)[2]
    if der.items(spki)[0] != P256 or algorithm != ECDSA_SHA256:
        raise Refused("algorithm")
    public = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), der.content(der.items(spki)[1])[1:])
    try:
        decode_dss_signature(der.content(signature)[1:])
        public.verify(der.content(signature)[1:], info, ec.ECDSA(SHA256()))
    except (InvalidSignature, ValueError):
        raise Refused("signature") from None
    return spki


# The agent's folder

def agent_files(scalar: bytes, next_: bytes | None, chain: list[bytes], bundle: list[bytes], broker: str) -> dict[str, str]:
    def certificates(list_: list[bytes]) -> str:
        return "".join(der.pem("CERTIFICATE", one) for one in list_)

    waiting = {"next-key.pem": key_pem(next_)} if next_ else {}
    return {"key.pem": key_pem(scalar), **waiting, "node.crt": certificates(chain), "bundle.pem": certificates(bundle),
            "broker-id": f"{broker}\n"}


def open_agent_files(files: dict[str, str]) -> tuple[list[bytes], list[bytes], str, str]:
    """Chain, bundle, broker, and the file whose key is the certificate's."""
    bundle, chain = (der.parse_pem("CERTIFICATE", files[file]) for file in ("bundle.pem", "node.crt"))
    broker = files["broker-id"].removesuffix("\n")
    if not broker.startswith("spiffe://") or kind(broker) != "broker":
        raise Refused("broker")
    own = open_leaf(chain[0], bundle[0])
    for file in ("key.pem", "next-key.pem"):
        if file in files and p256_spki(parse_key_pem(files[file])) == own.spki:
            return chain, bundle, broker, file
    raise Refused("key")
