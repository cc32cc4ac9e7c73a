"""Public known answers, so that this implementation does not rest on itself.

RFC 5869 A.1 (expand), RFC 9180 A.1.1 and A.7.1, `cryptography`'s own HPKE in both directions, RFC 6962 roots of the
Certificate Transparency reference trees, the example note of the format's reference implementation, and the library's own
reading of our certificates, requests and keys.
"""

from collections.abc import Iterator

from cryptography import x509
from cryptography.hazmat.primitives import hpke as library
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from attache_formats import audit, certificate, file_list, hpke, lp, note
from attache_formats.primitives import hkdf_expand, hkdf_extract

x = bytes.fromhex
INFO = x("4f6465206f6e2061204772656369616e2055726e")


def run() -> Iterator[tuple[str, str | None]]:
    for name, want, got in [*lp_by_hand(), *hkdf(), *rfc9180_a1(), *rfc9180_a7(), *library_hpke(), *merkle(), *notes(),
                            *certificates(), *protobuf()]:
        yield name, None if want == got else f"{got!r}, should be {want!r}"


Answers = Iterator[tuple[str, object, object]]


def lp_by_hand() -> Answers:
    """Written out by hand from the definition."""
    yield "lp pair", x("00000001 61 00000002 0001"), lp.lp("a", lp.u16(1))
    yield "lp list", x("00000001 78 00000004 00000001 0000000a 00000001 61 00000001 62"), lp.lp("x", [("a", "b")])
    yield "lp empty list", x("00000004 00000000"), lp.lp([])
    yield "lp single", x("00000004 00000001 00000007 00000003 746c73"), lp.lp([("tls",)])


def hkdf() -> Answers:
    prk = hkdf_extract(x("000102030405060708090a0b0c"), b"\x0b" * 22)
    yield "RFC 5869 A.1 prk", x("077709362c2e32df0ddc3f0dc47bba6390b6c73bb50f9c3122ec844ad7c2b3e5"), prk
    okm = x("3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865")
    yield "RFC 5869 A.1 okm", okm, hkdf_expand(prk, x("f0f1f2f3f4f5f6f7f8f9"), 42)


def rfc9180_a1() -> Answers:
    sk_e, enc = hpke.derive_key_pair(x("7268600d403fce431561aef583ee1613527cff655c1343f29812e66706df3234"))
    sk_r, pk_r = hpke.derive_key_pair(x("6db9df30aa07dd42ee5e8181afdb977e538f5e1fec8a06223f33f7013e525037"))
    yield "A.1.1 skEm", x("52c4a758a802cd8b936eceea314432798d5baf2d7e9235dc084ab1b9cfa2f736"), sk_e
    yield "A.1.1 pkEm", x("37fda3567bdbd628e88668c3c8d7e97d1d1253b6d4ea6d44c150f741f1bf4431"), enc
    yield "A.1.1 skRm", x("4612c550263fc8ad58375df3f557aac531d26850903e55a9f23f21d8534e8ac8"), sk_r
    aad, ct = x("436f756e742d30"), x("f938558b5d72f1a23810b4be2ab4f84331acc02fc97babc53a52ae8218a355a9"
                                     "6d8770ac83d07bea87e13c512a")
    plaintext = x("4265617574792069732074727574682c20747275746820626561757479")
    sender = hpke.setup_sender(hpke.AES_128_GCM, pk_r, INFO, sk_e)
    receiver = hpke.setup_receiver(hpke.AES_128_GCM, enc, sk_r, INFO)
    yield "A.1.1 shared_secret", x("fe0e18c9f024ce43799ae393c7e8fe8fce9d218875e8227b0187c04e7d2ea1fc"), sender.shared_secret
    yield "A.1.1 key", x("4531685d41d65f03dc48f6b8302c05b0"), sender.key
    yield "A.1.1 base_nonce", x("56d890e5accaaf011cff4b7d"), sender.base_nonce
    yield "A.1.1 exporter_secret", x("45ff1c2e220db587171952c0592d5f5ebe103f1561a2614e38f2ffd47e99e3f8"), sender.exporter_secret
    yield "A.1.1 both sides", sender, receiver
    yield "A.1.1 ct", ct, sender.seal(plaintext, aad)
    yield "A.1.1 pt", plaintext, receiver.open(ct, aad)
    yield from exports("A.1.1", receiver, [
        "3853fe2b4035195a573ffc53856e77058e15d9ea064de3e59f4961d0095250ee",
        "2e8f0b54673c7029649d4eb9d5e33bf1872cf76d623ff164ac185da9e88c21a5",
        "e9e43065102c3836401bed8c3c3c75ae46be1639869391d62c61f1ec7af54931"])


def rfc9180_a7() -> Answers:
    sk_e = x("095182b502f1f91f63ba584c7c3ec473d617b8b4c2cec3fad5af7fa6748165ed")
    sk_r = x("33d196c830a12f9ac65d6e565a590d80f04ee9b19c83c87f2c170d972a812848")
    pk_r = x("194141ca6c3c3beb4792cd97ba0ea1faff09d98435012345766ee33aae2d7664")
    yield "A.7.1 pkRm", pk_r, hpke.public_key(sk_r)
    sender = hpke.setup_sender(hpke.EXPORT_ONLY, pk_r, INFO, sk_e)
    yield "A.7.1 enc", x("e5e8f9bfff6c2f29791fc351d2c25ce1299aa5eaca78a757c0b4fb4bcd830918"), sender.enc
    yield "A.7.1 shared_secret", x("e81716ce8f73141d4f25ee9098efc968c91e5b8ce52ffff59d64039e82918b66"), sender.shared_secret
    yield "A.7.1 exporter_secret", x("79dc8e0509cf4a3364ca027e5a0138235281611ca910e435e8ed58167c72f79b"), sender.exporter_secret
    yield from exports("A.7.1", hpke.setup_receiver(hpke.EXPORT_ONLY, sender.enc, sk_r, INFO), [
        "7a36221bd56d50fb51ee65edfd98d06a23c4dc87085aa5866cb7087244bd2a36",
        "d5535b87099c6c3ce80dc112a2671c6ec8e811a2f284f948cec6dd1708ee33f0",
        "ffaabc85a776136ca0c378e5d084c9140ab552b78f039d2e8775f26efff4c70e"])


def exports(section: str, context: hpke.Context, wants: list[str]) -> Answers:
    for exporter_context, want in zip([b"", b"\x00", b"TestContext"], wants, strict=True):
        yield f"{section} export {exporter_context!r}", x(want), context.export(exporter_context, 32)


def library_hpke() -> Answers:
    """AES-256-GCM has no X25519 vector in the RFC: held against the library's, with an empty aad."""
    suite = library.Suite(library.KEM.X25519, library.KDF.HKDF_SHA256, library.AEAD.AES_256_GCM)
    sk, pk = hpke.derive_key_pair(b"a receiver of the library")
    private = X25519PrivateKey.from_private_bytes(sk)
    theirs = suite.encrypt(b"from the library", private.public_key(), INFO)
    receiver = hpke.setup_receiver(hpke.AES_256_GCM, theirs[:32], sk, INFO)
    yield "library seals, this opens", b"from the library", receiver.open(theirs[32:], b"")
    sender = hpke.setup_sender(hpke.AES_256_GCM, pk, INFO, hpke.derive_key_pair(b"a sender to the library")[0])
    yield "this seals, library opens", b"to the library", suite.decrypt(sender.enc + sender.seal(b"to the library", b""), private, INFO)


def merkle() -> Answers:
    bodies = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
    roots = ["6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
             "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
             "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
             "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
             "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
             "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
             "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
             "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"]
    leaves = [audit.leaf_hash(x(body)) for body in bodies]
    yield "empty root", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", audit.root([]).hex()
    for size, want in enumerate(roots, start=1):
        yield f"root of {size}", want, audit.root(leaves[:size]).hex()


def notes() -> Answers:
    text = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
    line = "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
    vkey = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
    yield "reference note", text, note.open_(text + "\n" + line, vkey)
    yield "reference vkey", vkey, note.vkey(*note.parse_vkey(vkey))


def certificates() -> Answers:
    """What the library finds in them is what was put in, and it makes the same of the same parts."""
    seed, scalar, at = b"\x11" * 32, b"\x22" * 32, 1_795_435_200
    ca_der = certificate.ca(seed, "example.internal", "Attaché CA", at, bytes(16))
    id_ = "spiffe://example.internal/broker/broker-0"
    leaf_der = certificate.leaf(seed, ca_der, certificate.open_request(certificate.request(scalar)), id_, at, b"\xff" * 16)
    ca, leaf = map(x509.load_der_x509_certificate, (ca_der, leaf_der))
    leaf.verify_directly_issued_by(ca)
    yield "certificate serials", (1 << 126, (1 << 127) - 1), (ca.serial_number, leaf.serial_number)
    yield "certificate times", (at - 60, at + 90 * 86400), tuple(
        int(time.timestamp()) for time in (leaf.not_valid_before_utc, leaf.not_valid_after_utc))
    usage = dict.fromkeys(("digital_signature", "content_commitment", "key_encipherment", "data_encipherment",
                           "key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only"), False)
    issuer_id, own_id = (x509.SubjectKeyIdentifier(certificate.key_id(spki)) for spki in (
        certificate.parse(ca_der).spki, certificate.p256_spki(scalar)))
    oid = x509.ExtendedKeyUsageOID
    yield "extensions of a CA", [
        (False, x509.SubjectAlternativeName([x509.UniformResourceIdentifier("spiffe://example.internal")])),
        (True, x509.KeyUsage(**usage | {"key_cert_sign": True, "crl_sign": True})), (False, issuer_id),
        (True, x509.BasicConstraints(ca=True, path_length=0)),
    ], [(extension.critical, extension.value) for extension in ca.extensions]
    yield "extensions of a leaf", [
        (False, x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer_id)),
        (True, x509.SubjectAlternativeName([x509.UniformResourceIdentifier(id_)])),
        (True, x509.KeyUsage(**usage | {"digital_signature": True})),
        (False, x509.ExtendedKeyUsage([oid.SERVER_AUTH, oid.CLIENT_AUTH])), (False, own_id),
        (True, x509.BasicConstraints(ca=False, path_length=None)),
    ], [(extension.critical, extension.value) for extension in leaf.extensions]
    request = x509.load_der_x509_csr(certificate.request(scalar))
    yield "certificate request", (True, 0, 0), (request.is_signature_valid, len(request.subject), len(request.extensions))
    key = load_pem_private_key(certificate.key_pem(scalar).encode(), None)
    yield "key", leaf.public_key(), key.public_key()


def protobuf() -> Answers:
    """The examples of the encoding's own description: 150 in field 1, "testing" in field 2."""
    yield "protobuf varint", x("089601"), file_list._number(1, 150)
    yield "protobuf string", x("120774657374696e67"), file_list._bytes(2, b"testing")
