"""The disk full in each step: what is said, what stays, and whether the same command finishes.

A tiny study is finished once. Then, for each notebook, a copy of the run lies on a small disk of
its own (a tmpfs: this needs root), the notebook's results are taken back and the study is run.
When the notebook has begun, the disk is filled but for a few kilobytes: the run must stop with one
line that says what to do. What was finished before must be as it was. Then the disk gets its space
again and the same command must end with what the undisturbed run has, byte by byte.

    python benchmarks/disk_full.py --quick --out disk_full.json
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import yaml
from tiny_study import fingerprints, write_study

from mdhelpers.base.places import folder_bytes, machine
from mdhelpers.runs.notebooks import find_notebooks
from mdhelpers.runs.run import Run

SPARE = 24_000  # bytes that are left when the notebook has begun


def words(study: Path) -> list[str]:
    return [sys.executable, "-m", "mdhelpers.command.cli", "run", str(study)]


def command(study: Path) -> subprocess.CompletedProcess:
    return subprocess.run(words(study), capture_output=True, text=True, check=False)


def filled_meanwhile(study: Path, name: str) -> tuple[int, list[str], Path]:
    """Run, and fill the disk when a notebook begins: the exit code, what was said, the filler."""
    log = study.parent.parent / f"log_{name}"
    with log.open("w") as file:
        process = subprocess.Popen(words(study), stdout=file, stderr=file)
    while process.poll() is None and f"{name}: running" not in log.read_text(encoding="utf-8"):
        time.sleep(0.02)
    filler = fill(study.parent)
    code = process.wait()
    said = [line for line in log.read_text(encoding="utf-8").splitlines() if line.strip()]
    return code, said[-3:], filler


@contextmanager
def small_disk(place: Path, size: int):
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


def take_back(run: Run, name: str) -> None:
    """Leave the run as if one notebook had not been executed."""
    for manifest in run.of_notebook(name):
        run.stage(manifest["stage"], {}).withdraw()
        for output in manifest["outputs"]:
            path = run.folder / output
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    if name.startswith("02"):
        for path in run.folder.glob("checkpoints_*/*"):
            path.unlink()
    (run.folder / "notebooks" / f"{name}.ipynb").unlink()


def fill(disk: Path) -> Path:
    filler = disk / "filler"
    free = shutil.disk_usage(disk).free
    with suppress(OSError), filler.open("wb", buffering=0) as file:  # the run writes, too
        file.write(bytes(max(0, free - SPARE)))
    return filler


def tried(name: str, finished: Path, wanted: dict[str, str], disk: Path) -> dict:
    study = disk / "tiny.yaml"
    shutil.copytree(finished, disk / "runs")
    given = yaml.safe_load((finished.parent / "tiny.yaml").read_text())
    study.write_text(yaml.safe_dump(given | {"runs_dir": str(disk / "runs")}))
    run = Run("tiny", runs_dir=disk / "runs")
    take_back(run, name)
    before = {m["stage"]: m["key"] for m in run.manifests() if m["stage"][:2] < name[:2]}
    code, said, filler = filled_meanwhile(study, name)
    damage = [d for m in run.manifests() if m["stage"] in before for d in run.damage(m)]
    kept = all(run.manifest(stage).get("key") == key for stage, key in before.items())
    filler.unlink()
    again = command(study)
    now = fingerprints(run.folder) if again.returncode == 0 else {}
    return {
        "notebook": name,
        "code": code,
        "said": said,
        "kept": kept and not damage,
        "finished": again.returncode == 0,
        "then": again.stderr.strip().splitlines()[-1:],
        "different": sorted(n for n in {*now, *wanted} if now.get(n) != wanted.get(n)),
    }


def rows_of(options, root: Path) -> list[dict]:
    study = write_study(root / "whole")
    if (done := command(study)).returncode:
        raise RuntimeError(done.stderr)
    finished = study.parent / "runs"
    wanted = fingerprints(finished / "tiny")
    names = [notebook.name for notebook in find_notebooks()]
    rows = []
    for name in names[2:4] if options.quick else names:
        with small_disk(root / f"disk_{name[:2]}", folder_bytes(finished) + 80_000_000) as disk:
            rows.append(tried(name, finished, wanted, disk))
        row = rows[-1]
        row["one_line"] = any("is full" in line and "Make space" in line for line in row["said"])
        ended = row["different"][:3] or "equal" if row["finished"] else row["then"]
        print(f"{name}: code {row['code']}, kept {row['kept']}, then {ended}", flush=True)
        print("   ", " / ".join(row["said"])[:300], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two notebooks")
    parser.add_argument("--out", type=Path, help="write rows and bars as JSON")
    options = parser.parse_args()
    os.environ["CI"] = "1"
    with tempfile.TemporaryDirectory() as root:
        rows = rows_of(options, Path(root))
    good = {
        "stopped with a line that names the disk and what to do": [
            row["code"] != 0 and row["one_line"] for row in rows
        ],
        "what was finished before stayed as it was": [row["kept"] for row in rows],
        "finished by the same command, equal to the undisturbed run": [
            row["finished"] and not row["different"] for row in rows
        ],
    }
    bars = [
        {"what": what, "value": sum(each), "aim": len(each), "met": all(each)}
        for what, each in good.items()
    ]
    for bar in bars:
        print(f"{bar['what']}: {bar['value']} of {bar['aim']}")
    if options.out:
        content = {"machine": machine(), "rows": rows, "bars": bars}
        options.out.write_text(json.dumps(content, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
