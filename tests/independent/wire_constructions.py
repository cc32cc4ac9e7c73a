"""Constructions in the words of others: certificates, requests and keys in X.509 and its kin, the files of a release in protobuf."""

from attache_formats import certificate, file_list
from attache_formats.primitives import sha256
from construction import Construction, Fields, h, s


def ca_seal(f: Fields) -> Fields:
    seed, random = h(f, "seed", "random")
    return {"certificate": certificate.ca(seed, *s(f, "trust_domain", "name", "made"), random).hex()}


def ca_open(f: Fields) -> Fields:
    found = certificate.open_ca(*h(f, "certificate"))
    return {"trust_domain": found.uri.removeprefix("spiffe://"), "made": found.begin + certificate.BACKDATE}


def leaf_seal(f: Fields) -> Fields:
    seed, ca, request, random = h(f, "seed", "ca", "request", "random")
    key = certificate.open_request(request)
    return {"certificate": certificate.leaf(seed, ca, key, *s(f, "id", "made"), random).hex()}


def leaf_open(f: Fields) -> Fields:
    """What was asked for is not in it but by its key."""
    certificate_, ca = h(f, "certificate", "ca")
    found = certificate.open_leaf(certificate_, ca)
    if "request" in f and found.spki != certificate.open_request(*h(f, "request")):
        raise certificate.Refused("key")
    return {"id": found.uri}


def request_seal(f: Fields) -> Fields:
    (scalar,) = h(f, "key")
    return {"key_pem": certificate.key_pem(scalar), "spki_sha256": sha256(certificate.p256_spki(scalar)).hex(),
            "info": certificate.request_info(scalar).hex(), "request": certificate.request(scalar).hex()}


def request_open(f: Fields) -> Fields:
    told = {"key": certificate.parse_key_pem(f["key_pem"]).hex()} if "key_pem" in f else {}
    return told | {"spki_sha256": sha256(certificate.open_request(*h(f, "request"))).hex()}


def _list(f: Fields, name: str) -> list[bytes]:
    return [bytes.fromhex(one) for one in f[name]]


def agent_folder_seal(f: Fields) -> Fields:
    next_ = bytes.fromhex(f["next"]) if f["next"] else None
    files = certificate.agent_files(*h(f, "key"), next_, _list(f, "chain"), _list(f, "bundle"), f["broker"])
    return {**files, "used": certificate.open_agent_files(files)[3]}


def agent_folder_open(f: Fields) -> Fields:
    chain, bundle, broker, used = certificate.open_agent_files(f)
    return {"chain": [one.hex() for one in chain], "bundle": [one.hex() for one in bundle], "broker": broker,
            "used": used}


def _files(f: Fields) -> list[file_list.File]:
    return [(x["path"], x["mode"], x["value"]) for x in f["files"]]


def file_list_seal(f: Fields) -> Fields:
    digest, message = file_list.build(*s(f, "incarnation", "seq"), _files(f), *s(f, "uid", "gid"), _list(f, "values"))
    return {"message": message.hex(), "digest": digest.hex()}


def file_list_open(f: Fields) -> Fields:
    incarnation, seq, digest, files, uid, gid = file_list.parse(*h(f, "message"), _list(f, "values"))
    rebuilt = file_list.message(incarnation, seq, digest, files, uid, gid)
    return {"incarnation": incarnation, "seq": seq, "digest": digest.hex(), "uid": uid, "gid": gid,
            "message": rebuilt.hex()}


_PROFILE = "; the extensions of each as docs/formats.md lists them"

CONSTRUCTIONS = {
    "certificate-ca": Construction("X.509 v3, self-signed by Ed25519; serial = 16 random bytes, the first & 0x7f | 0x40; from 60 s before, for 3,650 days" + _PROFILE, ca_seal, ca_open),
    "certificate-leaf": Construction("X.509 v3, signed by the CA's Ed25519; serial = 16 random bytes, the first & 0x7f | 0x40; from 60 s before, for an hour, a day or 90 days, within the CA's time" + _PROFILE, leaf_seal, leaf_open),
    "certificate-request": Construction("PKCS#8 of a P-256 key in PEM; info = version 0, no subject, the key, no attribute; request = PKCS#10 of info, ecdsa-with-SHA256 (here with the nonce of RFC 6979)", request_seal, request_open),
    "agent-folder": Construction("key.pem and next-key.pem PKCS#8, node.crt the chain, bundle.pem the CAs, all PEM; broker-id the SPIFFE ID, LF; used = the file whose key is the certificate's", agent_folder_seal, agent_folder_open),
    "file-list": Construction("protobuf: generation 1 (incarnation 1, seq 2, digest 3) || files 11 by path (path 1, mode 2, value 3) || owner_uid 12 || owner_gid 13; digest as of a generation, over path, mode, owner and the id of the value", file_list_seal, file_list_open),
}
