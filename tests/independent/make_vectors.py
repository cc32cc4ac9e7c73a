"""Writes vectors/*.json. Deterministic: random bytes are SHA-256("attache vector " + label + " " + counter).

A case with `out` must be reproduced from `in`; a case with `refused` must not open, and the word says at which check.
"""

import json
import sys
from pathlib import Path

from cases import exchange, local, log, store, wire
from cases.common import Case
from constructions import CONSTRUCTIONS

VECTORS = Path(__file__).parent / "vectors"


def build() -> dict[str, str]:
    """File name -> text of every vector file."""
    cases: dict[str, list[Case]] = {
        "lp": store.lp_cases(), **store.wrap_files(), "value": store.value_cases(), "keyring": store.keyring_cases(),
        "srk-seal": store.srk_cases(), "passphrase": store.passphrase_cases(), "kms-slot": store.kms_slot_cases(), "shares": store.shares_cases(), "share-file": store.share_file_cases(), "key-file": store.key_file_cases(), "row": store.row_cases(),
        "set-hash": store.set_cases(), "anchor-chain": store.anchor_cases(), "put": exchange.put_cases(),
        "slot-secret": exchange.slot_secret_cases(), "unseal": exchange.unseal_cases(),
        "release": exchange.release_cases(), "release-setup": exchange.setup_cases(),
        "denial": exchange.denial_cases(), "generation": exchange.generation_cases(),
        "late-renewal": exchange.late_renewal_cases(), "audit-leaf": log.leaf_cases(),
        "merkle-root": log.root_cases(), "merkle-inclusion": log.inclusion_cases(),
        "merkle-consistency": log.consistency_cases(), "signed-note": log.note_cases(), "audit-key": log.audit_key_cases(),
        "checkpoint": log.checkpoint_cases(), "anchor-note": log.anchor_note_cases(),
        "segment": log.segment_cases(), "summary": log.summary_cases(), "chain-id": log.chain_id_cases(),
        "backup": log.backup_cases(),
        "body": local.body_cases(), "identity-body": local.identity_cases(),
        "approval-body": local.approval_cases(), "registry-body": local.registry_cases(), "ca": local.ca_cases(), "anchor-row": store.anchor_row_cases(),
        "keyring-record": local.keyring_record_cases(), "request-digest": local.request_digest_cases(),
        "ipc-request": local.ipc_request_cases(), "ipc-answer": local.ipc_answer_cases(),
        "ipc-generation": local.ipc_generation_cases(), "metadata": local.metadata_cases(),
        "join-token": local.join_token_cases(), "operator-code": local.operator_code_cases(),
        "operator-code-body": local.operator_code_body_cases(), "listen": local.listen_cases(), "contexts": local.contexts_cases(),
        "page-token": local.page_token_cases(), "call-id": local.call_id_cases(),
        "store-header": local.store_header_cases(), "certificate-ca": wire.ca_cases(),
        "certificate-leaf": wire.leaf_cases(), "certificate-request": wire.request_cases(),
        "agent-folder": wire.agent_folder_cases(), "file-list": wire.file_list_cases(),
    }
    return {
        f"{name}.json": json.dumps({"construction": name, "formula": CONSTRUCTIONS[name].formula, "cases": list_},
                                   indent=1, ensure_ascii=False) + "\n"
        for name, list_ in cases.items()
    }


def main() -> int:
    VECTORS.mkdir(exist_ok=True)
    for name, text in build().items():
        (VECTORS / name).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
