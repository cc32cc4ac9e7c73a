"""Constructions of what stays on one machine: bodies of rows, the messages between agent and mounter, files of text."""

import tomllib

from attache_formats import body, ipc, keyring, put, text
from construction import Construction, Fields, h, s

# Bodies: the parameters of each, `h` for hex, `s` for plain, `k` for a recorded key, `p` for a previous one, `d` for a decision, `v` for when and by whom, `u` for a hash that
# may be absent.

BODIES = {
    "head": (body.head, "s:keyspace s:name h:secret s:state s:active s:latest s:created s:changed s:who"),
    "version": (body.version, "h:secret s:number f:fields s:created s:who s:note s:pinned"),
    "value-key": (body.value_key, "h:value h:secret h:key_id h:ct_hash s:ct_bytes h:wrapped"),
    "kek": (body.kek, "s:keyspace s:epoch h:kek_id s:state h:wrap_key_id h:wrapped s:created s:changed s:rate s:values"),
    "kek-index": (body.kek_index, "h:kek_id h:value"),
    "keyspace": (body.keyspace, "s:name s:state s:epoch s:created s:who s:max_versions s:max_age s:max_wraps s:automatic s:backup_age"),
    "request": (body.request, "s:operator h:request h:digest h:result s:created"),
    "backup": (body.backup, "h:id s:incarnation s:seq h:hash s:size s:created s:who v:verified"),
    "slot": (body.slot, "h:slot s:kind h:kdf_parameters h:pk h:blob s:number h:enc h:ct h:signature s:name s:created s:verified"),
    "keyring": (body.keyring, "s:number h:ct"),
    "identity": (body.identity, "s:id s:name k:current k:next p:previous s:joined s:renewed s:version"),
    "operator": (body.operator, "s:name s:role k:current k:next p:previous s:created s:signed_in"),
    "ban": (body.ban, "s:id s:reason s:by s:at"),
    "join-token": (body.join_token, "h:id h:hash s:cluster s:node_name s:node_uid s:not_after s:by"),
    "operator-code": (body.operator_code, "h:id h:hash s:name s:not_after s:by u:used"),
    "approval": (body.approval, "s:node s:name h:spki s:evidence s:asked s:not_after d:decision"),
    "cluster": (body.cluster, "s:name s:issuer s:audience s:source s:place s:created s:by"),
    "grant": (body.grant, "s:name s:keyspace s:secret s:fields s:to s:created s:by"),
    "policy": (body.policy, "s:name s:condition s:created s:by"),
    "ca": (body.ca, "h:certificate"),
    "incarnation": (body.incarnation, "s:incarnation s:begun s:cause"),
    "chain": (body.chain, "s:broker h:chain"),
    "ca-before": (body.ca_before, "h:certificate s:begun"),
    "readmission": (body.readmission, "s:not_after s:by"),
}


def _key(key: Fields | None) -> body.Key | None:
    return (*h(key, "spki"), *s(key, "serial", "not_after", "ca")) if key else None


def _parameter(f: Fields, kind: str, name: str) -> object:
    given = f[name]
    match kind:
        case "h":
            return bytes.fromhex(given)
        case "f":
            return [(x["field"], *h(x, "value")) for x in given]
        case "k":
            return _key(given)
        case "p":
            return (_key(given), given["superseded"]) if given else None
        case "u":
            return bytes.fromhex(given) if given else None
        case "v":
            return s(given, "at", "by") if given else None
        case "d":
            return s(given, "verdict", "by", "at") if given else None
        case _:
            return given


def body_seal(f: Fields) -> Fields:
    build, parameters = BODIES[f["row"]]
    key, built = build(*(_parameter(f, *parameter.split(":")) for parameter in parameters.split()))
    return {"key": key.hex(), "body": built.hex()}


def keyring_record_seal(f: Fields) -> Fields:
    entries = [(*s(x, "purpose", "state", "epoch"), *h(x, "id", "key")) for x in f["keys"]]
    return {"record": keyring.record(entries).hex()}


def keyring_record_open(f: Fields) -> Fields:
    return {"keys": [{"purpose": purpose, "state": state, "epoch": epoch, "id": id_.hex(), "key": key.hex()}
                     for purpose, state, epoch, id_, key in keyring.parse_record(*h(f, "record"))]}


def request_digest_seal(f: Fields) -> Fields:
    return {"digest": put.request_digest(f["verb"], *h(f, "encoded")).hex()}


# Agent and mounter

def _volume(f: Fields | None) -> ipc.Volume | None:
    return (f["pod"], f["name"]) if f else None


def _volume_fields(volume: ipc.Volume | None) -> Fields | None:
    return {"pod": volume[0], "name": volume[1]} if volume else None


def request_seal(f: Fields) -> Fields:
    return {"message": ipc.request(*s(f, "verb", "id", "memfd_bytes"), _volume(f["volume"])).hex()}


def request_open(f: Fields) -> Fields:
    verb, id_, memfd_bytes, volume = ipc.parse_request(*h(f, "message"))
    return {"verb": verb, "id": id_, "memfd_bytes": memfd_bytes, "volume": _volume_fields(volume)}


def answer_seal(f: Fields) -> Fields:
    x = f["stat"]
    stat = ipc.Stat(x["files"], x["seq"], *h(x, "digest_prefix"), x["bytes"], *h(x, "file_set")) if x else ipc.Stat()
    volumes = [_volume(volume) for volume in f["volumes"]]
    return {"message": ipc.answer(*s(f, "verb", "id", "fault", "errno", "flags"), stat, volumes).hex()}


def answer_open(f: Fields) -> Fields:
    fault, errno, flags, stat, volumes = ipc.parse_answer(*s(f, "verb", "id"), *h(f, "message"))
    told = {"files": stat.files, "seq": stat.seq, "digest_prefix": stat.digest_prefix.hex(), "bytes": stat.bytes_,
            "file_set": stat.file_set.hex()} if (f["verb"], fault) == ("stat", ipc.DONE) else None
    return {"fault": fault, "errno": errno, "flags": flags, "stat": told, "volumes": [_volume_fields(v) for v in volumes]}


def _files(f: Fields) -> list[ipc.File]:
    return [ipc.File(*s(x, "path", "mode", "uid", "gid"), *h(x, "value")) for x in f["files"]]


def memfd_seal(f: Fields) -> Fields:
    files = _files(f)
    built = ipc.memfd(*s(f, "incarnation", "seq"), *h(f, "digest"), files, f["metadata"].encode())
    return {"memfd": built.hex(), "file_set": ipc.file_set(files).hex(),
            "order": sorted((x.path for x in files), key=str.encode)}


def memfd_open(f: Fields) -> Fields:
    incarnation, seq, digest, files, metadata = ipc.parse_memfd(*h(f, "memfd"))
    return {"incarnation": incarnation, "seq": seq, "digest": digest.hex(), "metadata": metadata.decode(),
            "order": [x.path for x in files], "file_set": ipc.file_set(files).hex(),
            "memfd": ipc.memfd(incarnation, seq, digest, files, metadata).hex()}


def metadata_seal(f: Fields) -> Fields:
    told = [(x["path"], x["ref"], x["mode"]) for x in f["told"]]
    file_set = ipc.file_set(_files(f))
    return {"file_set": file_set.hex(), "text": text.metadata(
        *s(f, "incarnation", "seq"), *h(f, "digest"), f["delivered_at"], told, *s(f, "missing", "truncated"), file_set)}


# Text

def one_time(kind: str) -> Construction:
    def seal(f: Fields) -> Fields:
        id_, secret, pin = h(f, "id", "secret", "pin")
        return {"text": text.one_time(kind, id_, secret, pin), "hash": text.one_time_hash(kind, id_, secret).hex()}

    def open_(f: Fields) -> Fields:
        id_, secret, pin = text.parse_one_time(kind, f["text"])
        return {"id": id_.hex(), "secret": secret.hex(), "pin": pin.hex()}

    prefix, label = text.ONE_TIME[kind]
    return Construction(f"text = '{prefix}' || base64url without padding of (id 16 || secret 32 || pin 32); hash = SHA-256(LP('{label}', id, secret))", seal, open_)


def listen_seal(f: Fields) -> Fields:
    return {"text": text.listen(f.get("grpc"), f["enroll"], f.get("metrics"))}


def contexts_seal(f: Fields) -> Fields:
    return {"text": text.contexts(*s(f, "current", "contexts"))}


def contexts_open(f: Fields) -> Fields:
    """By the standard library's reader of TOML."""
    told = tomllib.loads(f["text"])
    return {"current": told.get("current"), "contexts": told["contexts"]}


def page_token_seal(f: Fields) -> Fields:
    return {"token": text.page_token(f["last"])}


def page_token_open(f: Fields) -> Fields:
    return {"last": text.parse_page_token(f["token"])}


def call_id_seal(f: Fields) -> Fields:
    return {"header": text.call_id(*h(f, "boot"), f["call"])}


def store_header_seal(f: Fields) -> Fields:
    return {key: value.hex() for key, value in text.store_header(*h(f, "store_id"), f["at"]).items()}


_BODY = "format u16 || suite u16 || LP(fields of the row)"

CONSTRUCTIONS = {
    "body": Construction(_BODY, body_seal),
    "identity-body": Construction(_BODY, body_seal),
    "operator-code-body": Construction(_BODY, body_seal),
    "approval-body": Construction(_BODY + "; key = first 16 hex digits of SHA-256(LP('attache/approval/1', node, spki))", body_seal),
    "registry-body": Construction(_BODY, body_seal),
    "ca": Construction(_BODY, body_seal),
    "keyring-record": Construction("format u16 || suite u16 || count u32 || (purpose u8 || state u8 || epoch u32 || id 16 || key 32)*", keyring_record_seal, keyring_record_open),
    "request-digest": Construction("SHA-256(LP('attache/request/1', verb, encoded))", request_digest_seal),
    "ipc-request": Construction("version u16 || verb u16 || id u32 || memfd size u64 || 0 x16 || volume 128", request_seal, request_open),
    "ipc-answer": Construction("version u16 || verb u16 || id u32 || fault u16 || volumes u16 || errno u32 || flags u32 || files u32 || seq u64 || digest prefix 8 || bytes u64 || file set 32 || 0 x48 || volume 128 x16", answer_seal, answer_open),
    "ipc-generation": Construction("'attache-' || format u16 || files u16 || incarnation u32 || seq u64 || digest 32 || metadata's length u32 || 0 x4 || entries of 20 || paths || metadata || values; file set = SHA-256 of (path's length u16 || path || mode u16 || owner u32 || group u32 || size u64)*", memfd_seal, memfd_open),
    "metadata": Construction("JSON on one line: format, generation, deliveredAt, files, missing, [truncated], fileSet; LF", metadata_seal),
    "join-token": one_time("join-token"),
    "operator-code": one_time("operator-code"),
    "listen": Construction("JSON of the two addresses, LF", listen_seal),
    "page-token": Construction("hex of the last item's key", page_token_seal, page_token_open),
    "call-id": Construction("hex(boot[..4]) '-' hex of the call's number", call_id_seal),
    "store-header": Construction("format u16, store 16, seq u64, each under its name", store_header_seal),
    "contexts": Construction("TOML: current, [contexts.NAME] with keys ascending", contexts_seal, contexts_open),
}
