"""Every file of a finished run damaged in every way: is it found, and made whole by one command?

A tiny study is run through all notebooks. Then each file that it left is harmed in a copy of the
run: cut short, emptied, one bit flipped, replaced by the same file of a run with another seed,
deleted. Found means that `mdhelpers run` (which decides before anything runs what must run) or
`mdhelpers status --check` names the damage. A random sample is then made whole by `mdhelpers run`
and compared with the original byte by byte.

    python benchmarks/damage.py --quick --out damage.json
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import random
import re
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from tiny_study import fingerprints, write_study

from mdhelpers.base.places import machine
from mdhelpers.command.runner import run_study
from mdhelpers.command.status import check_run

IGNORED = re.compile(r"\.lock$|^training\.jsonl$|^retrained/|^plan\.json$|^run\.json$")
REASONS = {
    "training.jsonl, plan.json": "a log and a plan, read by `status` alone while it trains",
    "retrained/": "models to verify by, whose results are kept; held against checksums when read",
    "run.json": "the mark; without it the run is known by its stages",
    "results.json": "a copy of what the stages say: it is made anew at once",
}


def cut(path: Path, _: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path, _: Path) -> None:
    path.write_bytes(b"")


def flip(path: Path, _: Path) -> None:
    content = bytearray(path.read_bytes())
    content[random.randrange(len(content))] ^= 1 << random.randrange(8)
    path.write_bytes(content)


def swap(path: Path, other: Path) -> None:
    shutil.copy(other, path)


def lose(path: Path, _: Path) -> None:
    path.unlink()


HARMS: dict[str, Callable[[Path, Path], None]] = {
    "cut": cut,
    "emptied": empty,
    "flipped": flip,
    "swapped": swap,
    "deleted": lose,
}


def kind_of(name: str) -> str:
    """What sort of file it is: chunks and checkpoints by their folder, others by their name."""
    name = re.sub(r"^models_\d\.zarr/(\w+)/c/.*", r"models.zarr/\1/c", name)
    name = re.sub(r"^models_\d\.zarr/", "models.zarr/", name)
    name = re.sub(r"^checkpoints_\d/.*", "checkpoints/", name)
    name = re.sub(r"^retrained/.*", "retrained/", name)
    return re.sub(r"^(datamodels|notebooks/)(_?\d+)_?\w*", r"\1…", name)


def files_of(run: Path) -> list[str]:
    names = (p.relative_to(run).as_posix() for p in sorted(run.rglob("*")) if p.is_file())
    return [name for name in names if not IGNORED.search(name)]


def found(study: Path, name: str) -> str:
    """What is said of the damage, by the plan of the next run or by a check of the models."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        plan = run_study(study, dry_run=True, estimate=lambda _: {})
    reasons = [f"{step.name}: {step.reason}" for step in plan.to_run]
    if reasons:
        return reasons[0]
    run = study.parent / "runs" / "tiny"
    bad = [pair for _, pairs in check_run(run) for pair in pairs]
    if bad:
        return f"status --check: {bad[0]}"
    if name == "results.json":
        plan.run.write_results()
        return "made anew from the stages"
    return ""


def make_whole(study: Path, wanted: dict[str, str]) -> list[str]:
    with contextlib.redirect_stdout(io.StringIO()):
        run_study(study, estimate=lambda _: {})
    now = fingerprints(study.parent / "runs" / "tiny")
    return sorted(name for name in {*wanted, *now} if wanted.get(name) != now.get(name))


def rows_of(options, root: Path) -> list[dict]:
    quiet = io.StringIO()
    with contextlib.redirect_stdout(quiet):
        run_study(write_study(root / "other", seed=1), estimate=lambda _: {})
        study = write_study(root / "one")
        run_study(study, estimate=lambda _: {})
    run, other = (root / name / "runs" / "tiny" for name in ("one", "other"))
    kept, wanted = root / "kept", fingerprints(run)
    shutil.copytree(run, kept)
    rows, names = [], files_of(run)
    if options.quick:
        names = [names[i] for i in sorted(random.sample(range(len(names)), 40))]
    for name in names:
        for harm, do in HARMS.items():
            path, before = run / name, (kept / name).read_bytes()
            if harm == "swapped" and (
                not (other / name).is_file() or (other / name).read_bytes() == before
            ):
                continue  # the same there: nothing to be found
            do(path, other / name)
            if path.is_file() and path.read_bytes() == before:
                continue
            row = {"file": name, "kind": kind_of(name), "harm": harm, "said": found(study, name)}
            shutil.copy2(kept / name, path)
            rows.append(row)
    for row in random.sample(rows, options.heal):
        HARMS[row["harm"]](run / row["file"], other / row["file"])
        row["different"] = make_whole(study, wanted)
        shutil.rmtree(run)
        shutil.copytree(kept, run)
    return rows


def table(rows: list[dict]) -> str:
    counts = defaultdict(lambda: defaultdict(lambda: [0, 0]))
    for row in rows:
        cell = counts[row["kind"]][row["harm"]]
        cell[0] += bool(row["said"])
        cell[1] += 1
    width = max(map(len, counts))
    lines = [f"{'file':<{width}}" + "".join(f"{harm:>12}" for harm in HARMS)]
    for kind, cells in counts.items():
        shown = (f"{cells[h][0]} of {cells[h][1]}" if cells[h][1] else "-" for h in HARMS)
        lines.append(f"{kind:<{width}}" + "".join(f"{text:>12}" for text in shown))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="40 of the files, none made whole")
    parser.add_argument("--heal", type=int, default=12, help="how many to make whole again")
    parser.add_argument("--seed", type=int, default=0, help="of the bits that are flipped")
    parser.add_argument("--out", type=Path, help="write rows and bars as JSON")
    options = parser.parse_args()
    options.heal = 0 if options.quick else options.heal
    random.seed(options.seed)
    os.environ["CI"] = "1"
    with tempfile.TemporaryDirectory() as root:
        rows = rows_of(options, Path(root))
    print(table(rows))
    bars = [
        {"what": "harms found, of all", "value": sum(bool(r["said"]) for r in rows)}
        | {"aim": len(rows), "met": all(r["said"] for r in rows)}
    ]
    healed = [row for row in rows if "different" in row]
    if healed:
        whole = sum(not row["different"] for row in healed)
        bars.append({"what": "made whole by one `mdhelpers run`, of a sample", "value": whole})
        bars[-1] |= {"aim": len(healed), "met": whole == len(healed)}
    for bar in bars:
        print(f"{bar['what']}: {bar['value']} of {bar['aim']}")
    for row in rows:
        if not row["said"] or row.get("different"):
            print(f"  {row['file']}, {row['harm']}: {row['said']} {row.get('different', '')}")
    if options.out:
        content = {"machine": machine(), "left_out": REASONS, "rows": rows, "bars": bars}
        options.out.write_text(json.dumps(content, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
