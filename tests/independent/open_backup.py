"""Opens a whole backup with a slot's key file, or enough of its shares, and prints what it holds, plaintexts included, as JSON:
for tests alone.

    .venv/bin/python -B open_backup.py BACKUP KEY-FILE
    .venv/bin/python -B open_backup.py BACKUP SHARE...

What does not hold is refused: exit 1, and the check that refused it on standard error.
"""

import json
import sys
from pathlib import Path

from attache_formats import note, shares, slot, whole_backup
from attache_formats.primitives import Refused


def given(files: list[str]) -> whole_backup.Given:
    texts = [Path(file).read_text(encoding="ascii") for file in files]
    if len(texts) == 1 and texts[0].startswith(slot.KEY_FILE_PREFIX):
        return slot.parse_key_file(texts[0])
    return [shares.parse_file(text) for text in texts]


def main(backup: str, *files: str) -> int:
    try:
        opened = whole_backup.open_(Path(backup).read_bytes(), given(list(files)))
    except Refused as why:
        print(f"refused: {why}", file=sys.stderr)
        return 1
    head = opened.head
    secrets = {path: {str(number): {field: plain.hex() for field, plain in fields.items()}
                      for number, fields in versions.items()} for path, versions in opened.secrets.items()}
    print(json.dumps({"store": note.uuid_text(head.store), "backup": note.uuid_text(head.backup), "incarnation": head.incarnation,
                      "seq": head.seq, "rows": opened.rows, "secrets": secrets, "keyspaces": opened.keyspaces, "keys": opened.keys,
                      "macs": opened.macs, "ring": opened.ring}))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
