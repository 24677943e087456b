"""Principal directions against turned ones: who stands at their ends?

Of finished runs in whose images features were planted, or spiked in. For each feature of which
page 7 says that one algorithm responds more, and several numbers of directions of that algorithm's
residuals: the share of carriers at the best end, as many outermost test images as carry it, with
principal components as they are and turned by varimax; and what the best end of as many random
directions reaches.

    python benchmarks/rotations.py runs/augmentation runs/power/cifar10_spike-7-? --out FILE
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from mdhelpers.base.places import machine
from mdhelpers.base.records import plain
from mdhelpers.method.comparison import COMPARISONS, compare
from mdhelpers.method.rotation import ROTATIONS
from mdhelpers.method.subpopulations import best_at_random, grade
from mdhelpers.runs.run import Run, run_at
from mdhelpers.stages.data import read_data
from mdhelpers.stages.datamodels import read_datamodels
from mdhelpers.stages.effects import more_side, read_effects

NUMBERS, SHOWN = (8, 16, 24, 32), 24  # directions of a side; of the page's table


def rows_of(run: Run, numbers: tuple[int, ...]) -> list[dict]:
    """The shares of one run's features."""
    datamodels, test = read_datamodels(run), read_data(run, mmap=True).test
    verdicts = read_effects(run).verdicts
    rows = []
    for verdict in verdicts.itertuples():
        side, feature = more_side(verdict.outcome), verdict.transformation
        if not side or verdict.source != "study" or feature not in test.truth:
            continue
        name, truth = COMPARISONS[side - 1], test.truth[[feature]]
        head = {"study": study_of(run), "feature": feature}
        head |= {"algorithm": side, "difference": abs(verdict.difference)}
        for n in numbers:
            about = {"n_directions": n, "measure": "precision_at_k"}
            random = best_at_random(name, *datamodels, test.labels, truth, **about)[feature]
            row = head | {"directions": n, "carriers": int(truth[feature].sum()), "random": random}
            for rotation in ROTATIONS:
                found = compare(*datamodels, n_directions=n, rotation=rotation)[name]
                row[rotation] = grade(found, test.labels, truth)["precision_at_k"].max()
            rows.append(row)
    return rows


def study_of(run: Run) -> str:
    """Its name, with the strength and without the drawing where `mdhelpers power` made it."""
    return re.sub(r"-\d+(-own)?$", "", run.study)


def summarise(rows: list[dict]) -> list[dict]:
    """Medians over drawings."""
    keys = ["study", "feature", "algorithm", "directions"]
    table = pd.DataFrame(rows).groupby(keys, sort=False)
    found = table.median(numeric_only=True)
    found["drawings"] = table.size()
    return found.reset_index().to_dict("records")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path, help="folders of runs")
    parser.add_argument("--quick", action="store_true", help="the first run, 8 directions")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    runs, numbers = (given.runs[:1], NUMBERS[:1]) if given.quick else (given.runs, NUMBERS)
    rows = [row for path in tqdm(runs, mininterval=5) for row in rows_of(run_at(path), numbers)]
    if not rows:
        raise SystemExit("page 7 of these runs names no planted feature that one side uses more")
    found = summarise(rows)
    print(pd.DataFrame(found).round(2).to_string(index=False))
    if given.out:
        shown = [row for row in found if row["directions"] == SHOWN]
        about = {"machine": machine(), "shown": shown, "rows": found, "each": rows}
        given.out.write_text(json.dumps(plain(about), indent=1) + "\n")


if __name__ == "__main__":
    main()
