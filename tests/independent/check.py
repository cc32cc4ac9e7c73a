"""Recomputes every vector from its inputs, runs the refusals, and checks the implementation against public vectors.

Last line: `N passed, N failed`; the exit code is 1 when something failed or nothing ran.
"""

import copy
import json
import sys
from pathlib import Path

import known_answers
import make_vectors
from constructions import CONSTRUCTIONS, Fields, Refused

VECTORS = Path(__file__).parent / "vectors"


class Tally:
    def __init__(self) -> None:
        self.passed = self.failed = 0

    def note(self, name: str, fault: str | None) -> None:
        if fault is None:
            self.passed += 1
        else:
            self.failed += 1
            print(f"FAILED {name}: {fault}")


def difference(want: Fields, got: Fields) -> str | None:
    for key in sorted(want.keys() | got.keys()):
        if want.get(key) != got.get(key):
            return f"{key} is {got.get(key)!r}, the file has {want.get(key)!r}"
    return None


def check_case(construction: str, case: Fields) -> str | None:
    """The fault of one case, or none."""
    known = CONSTRUCTIONS[construction]
    try:
        if "refused" in case:
            return _check_refusal(construction, case)
        fault = difference(case["out"], known.seal(case["in"]))
        if fault or known.open is None:
            return fault
        whole = case["in"] | case["out"]
        recovered = known.open(whole)
        return difference({k: whole[k] for k in recovered}, recovered)
    except Refused as why:
        return f"refused: {why}"
    except (KeyError, ValueError, TypeError) as error:
        return f"{type(error).__name__}: {error}"


def _check_refusal(construction: str, case: Fields) -> str | None:
    open_ = CONSTRUCTIONS[construction].open
    assert open_ is not None, construction
    try:
        open_(case["in"])
    except Refused as why:
        return None if str(why) == case["refused"] else f"refused at {why}, should be at {case['refused']}"
    return "opened, and must not"


def check_known_answers(tally: Tally) -> None:
    for name, fault in known_answers.run():
        tally.note(f"known answers: {name}", fault)


def check_files(tally: Tally) -> None:
    built = make_vectors.build()
    on_disk = {path.name: path.read_text(encoding="utf-8") for path in VECTORS.glob("*.json")}
    tally.note("files", None if built.keys() == on_disk.keys() else f"{sorted(built.keys() ^ on_disk.keys())}")
    for name, text in sorted(on_disk.items()):
        tally.note(f"{name} as generated", None if built.get(name) == text else "make_vectors.py writes another text")
        file = json.loads(text)
        construction = file["construction"]
        names = [case["name"] for case in file["cases"]]
        tally.note(f"{name} names", None if len(set(names)) == len(names) else "a name occurs twice")
        for case in file["cases"]:
            tally.note(f"{name}: {case['name']}", check_case(construction, case))
        check_controls(tally, construction, file["cases"])


def check_controls(tally: Tally, construction: str, cases: list[Fields]) -> None:
    """A check that cannot fail proves nothing: each altered output must be noticed."""
    first = next(case for case in cases if "out" in case)
    for key, content in first["out"].items():
        altered = copy.deepcopy(first)
        altered["out"][key] = content + 1 if isinstance(content, int) else content[:-1] if content else "00"
        noticed = check_case(construction, altered) is not None
        tally.note(f"{construction} control, altered {key}", None if noticed else "not noticed")


def main() -> int:
    tally = Tally()
    for part in (check_known_answers, check_files):
        try:
            part(tally)
        except (Refused, KeyError, ValueError, TypeError, OSError) as error:  # the summary is printed all the same
            tally.note(part.__name__, f"stopped by {type(error).__name__}: {error}")
    print(f"{tally.passed} passed, {tally.failed} failed")
    return 1 if tally.failed or not tally.passed else 0


if __name__ == "__main__":
    sys.exit(main())
