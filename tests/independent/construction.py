"""What a construction is to a vector file, and how its fields are read."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Fields = dict[str, Any]


@dataclass(frozen=True)
class Construction:
    formula: str
    seal: Callable[[Fields], Fields]
    open: Callable[[Fields], Fields] | None = None


def h(fields: Fields, *names: str) -> list[Any]:
    """Byte strings, as a list to be spread over the parameters of a construction."""
    return [bytes.fromhex(fields[name]) for name in names]


def s(fields: Fields, *names: str) -> list[Any]:
    """Plain strings and integers."""
    return [fields[name] for name in names]
