"""A whole study killed again and again: is what it leaves in the end the same to the last byte?

The tiny study is run through all notebooks once, undisturbed. Then it is run from nothing several
times, and each time processes are killed with signal 9 at random moments of randomly chosen
notebooks: `mdhelpers run` itself, the kernel, or a worker that trains. After each kill the same
command is given again, at once, as a user would. What lies there in the end is compared with the
undisturbed run's: stores, safetensors, parquet, pictures, and the figures of results.json.

    python benchmarks/kills.py --quick --out kills.json
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil
from tiny_study import fingerprints, write_study

from mdhelpers.base.places import machine

VICTIMS = ("parent", "kernel", "worker")
A_RUN = 10  # kills of one run
PATIENCE = 900.0  # seconds that any one start may take
RUNNING = re.compile(r"^\[(\d+)/\d+\] .*: running", re.MULTILINE)


class Session:
    """`mdhelpers run` of one study, started as often as it takes."""

    def __init__(self, study: Path):
        self.study, self.log = study, study.parent / "log"
        self.process: subprocess.Popen | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "mdhelpers.command.cli", "run", str(self.study)]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        self.began = time.monotonic()

    def notebook(self) -> int:
        """The number of the notebook that is being executed; 0 before the first."""
        found = RUNNING.findall(self.log.read_text(encoding="utf-8"))
        return int(found[-1]) if found else 0

    def victim(self, kind: str) -> psutil.Process | None:
        parent = psutil.Process(self.process.pid)
        if kind == "parent":
            return parent
        below = parent.children(recursive=True)
        kernels = [p for p in below if "ipykernel_launcher" in " ".join(p.cmdline())]
        if kind == "kernel":
            return kernels[0] if kernels else None
        workers = [p for kernel in kernels for p in kernel.children(recursive=True)]
        return random.choice(workers) if workers else None

    def kill(self, kind: str) -> bool:
        try:
            victim = self.victim(kind)
            if victim is not None:
                victim.kill()
        except psutil.NoSuchProcess:
            return False
        return victim is not None


def undisturbed(study: Path) -> tuple[dict[str, str], dict[int, float]]:
    """What the run leaves, and the seconds that each notebook takes."""
    session, seen, last = Session(study), {}, time.monotonic()
    session.start()
    while session.process.poll() is None:
        number = session.notebook()
        if number and number not in seen:
            seen[number] = time.monotonic()
        time.sleep(0.05)
    if session.process.returncode:
        raise RuntimeError(session.log.read_text(encoding="utf-8"))
    last = time.monotonic()
    times = [*seen.values(), last]
    return fingerprints(study.parent / "runs" / "tiny"), {
        number: times[i + 1] - times[i] for i, number in enumerate(seen)
    }


def disturbed(study: Path, durations: dict[int, float], n_kills: int) -> list[tuple[int, str]]:
    """Run with kills until it ends well; returns (notebook, victim) of each kill."""
    targets = sorted(random.choices(list(durations), k=n_kills))
    session, kills = Session(study), []
    session.start()
    while True:
        code = session.process.poll()
        if code == 0:
            return kills
        if code is not None:
            session.start()
        if time.monotonic() - session.began > PATIENCE:
            session.process.kill()
            raise RuntimeError(f"it hangs: {session.log.read_text(encoding='utf-8')}")
        number = session.notebook()
        if targets and number >= targets[0]:
            kind = random.choice(VICTIMS)
            time.sleep(random.uniform(0, durations[targets[0]]))
            if session.process.poll() is None and session.kill(kind):
                kills.append((session.notebook(), kind))
                targets = targets[1:]
                if kind == "parent":
                    session.process.wait()
        time.sleep(0.05)


def difference(found: dict[str, str], wanted: dict[str, str]) -> list[str]:
    return sorted(name for name in {*found, *wanted} if found.get(name) != wanted.get(name))


def leftovers(run: Path) -> list[str]:
    names = ("*.unfinished", "*.tmp", "*.partial", ".seen-*")
    return [str(path.relative_to(run)) for name in names for path in run.rglob(name)]


def rows_of(options, root: Path) -> list[dict]:
    wanted, durations = undisturbed(write_study(root / "undisturbed"))
    print(f"undisturbed: {sum(durations.values()):.0f} s, {len(wanted)} files", flush=True)
    again, _ = undisturbed(write_study(root / "again", workers=1))
    rows = [{"kills": [], "different": difference(again, wanted), "left": []}]
    print(f"undisturbed again, one worker: {rows[0]['different'] or 'equal'}", flush=True)
    done = number = 0
    while done < options.kills:
        study, began = write_study(root / f"run_{number}"), time.monotonic()
        kills = disturbed(study, durations, min(A_RUN, options.kills - done))
        run = study.parent / "runs" / "tiny"
        row = {"kills": kills, "different": difference(fingerprints(run), wanted)}
        rows.append(row | {"left": leftovers(run)})
        done, number = done + len(kills), number + 1
        took = time.monotonic() - began
        told = row["different"] or f"equal in {len(wanted)} files"
        print(f"run {number}: {len(kills)} kills, {took:.0f} s, {told}", flush=True)
    return rows


def table(rows: list[dict]) -> str:
    counts = Counter(tuple(kill) for row in rows for kill in row["kills"])
    numbers = sorted({number for number, _ in counts})
    lines = ["notebook  " + "".join(f"{kind:>8}" for kind in VICTIMS)]
    for number in numbers:
        lines.append(f"{number:>8}  " + "".join(f"{counts[number, k]:>8}" for k in VICTIMS))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--quick", action="store_true", help="three kills")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--out", type=Path, help="write rows and bars as JSON")
    options = parser.parse_args()
    options.kills = 3 if options.quick else options.kills
    random.seed(options.seed)
    os.environ["CI"] = "1"  # lines in place of bars
    with tempfile.TemporaryDirectory() as root:
        rows = rows_of(options, Path(root))
    kills = sum(len(row["kills"]) for row in rows)
    equal = sum(not row["different"] for row in rows)
    clean = sum(not row["left"] for row in rows)
    bars = [
        {"what": what, "value": value, "aim": len(rows), "met": value == len(rows)}
        for what, value in (
            (f"runs equal to the undisturbed one, of {len(rows)} ({kills} kills)", equal),
            ("runs that leave no file half written", clean),
        )
    ]
    print(table(rows))
    for bar in bars:
        print(f"{bar['what']}: {bar['value']}")
    if options.out:
        content = {"machine": machine(), "rows": rows, "bars": bars}
        options.out.write_text(json.dumps(content, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
