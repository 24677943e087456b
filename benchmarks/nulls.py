"""How often evidence is wrong where algorithms are not alike in noise, scale, masks or slots.

Outputs are drawn, not trained, so that the truth is known. In every *null* both algorithms have the
same normalised datamodels in expectation: whatever is called is a false call. So it is where scores
from gradients are drawn, a few models' worth, but for the last null: there gradients see the
algorithms wrongly, each in a way of its own, and retraining must not confirm what is called. In the
*kinds* one feature is planted, used by one algorithm, by both alike, by one of them more, or by
both through other training images: the words are counted. And intervals are asked how often they
hold the truth.

    python benchmarks/nulls.py --quick
    python benchmarks/nulls.py --models 64 128 240 720 --comparisons 200 --workers 2 \\
        --each each.json --out FILE

Comparisons that ``--each`` has already are kept.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import time
from pathlib import Path
from unittest.mock import patch

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
os.environ.update(dict.fromkeys(THREADS, "1"))

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import torch  # noqa: E402
from scipy.stats import beta, norm  # noqa: E402
from tqdm import tqdm  # noqa: E402

from mdhelpers.analyses.reweighting import difference_along, tilted_masks  # noqa: E402
from mdhelpers.base.places import machine  # noqa: E402
from mdhelpers.method import crossfit  # noqa: E402
from mdhelpers.method.comparison import COMPARISONS, compare, normalise_rows  # noqa: E402
from mdhelpers.method.crossfit import likeness_weights, residual_directions  # noqa: E402
from mdhelpers.method.datamodels import Fitter  # noqa: E402
from mdhelpers.method.effects import difference  # noqa: E402
from mdhelpers.method.engines.moments import split_groups  # noqa: E402
from mdhelpers.method.evidence import Outputs, benjamini_hochberg, group_models  # noqa: E402
from mdhelpers.method.lds import lds  # noqa: E402
from mdhelpers.method.uses import USES, contrasts  # noqa: E402

LEVEL, AIM, COVER = 0.05, 0.08, 0.93
N_TRAIN, N_TEST, N_CLASSES = 80, 160, 2
FEW = (16, 32, 64)  # models with scores
SIGNAL = 0.5  # of the outputs' variance
N_SPLITS, N_DIRECTIONS, TOP_K = 2, 8, 16
ROTATION = "none"  # of directions, in each process
SIZES = {"many tests": (40, 600), "many training images": (300, 60)}
NULLS = (
    "alike",
    "noise x 1.5",
    "noise x 2",
    "noise x 3",
    "scale x 2",
    "scale by example",
    "noise by example",
    "heavy tails in one",
    "heavy tails in both",
    "wild models in one",
    "wild models in both",
    "saturating",
    "noise by mask",
    "correlated seeds",
    "alpha .3 in one",
    "own masks",
    *SIZES,
    *(f"{n} slots, {d}" for n in (4, 8, 32) for d in (0, 0.25, 0.5)),
)
WRONG_SCORES = "wrong, each in its own way"
SCORE_NULLS = ("alike", *NULLS[2:11], "correlated seeds", WRONG_SCORES)
N_HELDOUT, N_PAIRS = 64, 6
QUICK_NULLS = ("alike", "noise x 2", "wild models in one", "saturating", "32 slots, 0.5")
HELD = ("gap", "ratio", "share", "times", "cosine")
KINDS = ("only 1", "1 more", "alike", "other images", "not used")
RIGHT = {
    "only 1": ("only_1", "more_1"),
    "1 more": ("more_1", "only_1"),
    "alike": ("alike", "not found"),
    "other images": ("other_images",),
}
WRONG = {
    "only 1": ("only_2", "more_2", "alike", "other_images"),
    "1 more": ("only_2", "more_2", "alike", "other_images"),
    "alike": ("only_1", "more_1", "only_2", "more_2", "other_images"),
    "other images": ("only_1", "only_2", "alike"),
}


def draw_masks(n_models: int, n_train: int, alpha: float, rng) -> np.ndarray:
    order = rng.random((n_models, n_train)).argsort(1)
    return order < round(alpha * n_train)


def draw_truth(n_train: int, n_test: int, rng) -> np.ndarray:
    """Normalised datamodels: half of each is one of six patterns, half its own."""
    patterns = np.zeros((6, n_train))
    for row in patterns:
        chosen = rng.choice(n_train, max(4, n_train // 8), replace=False)
        row[chosen] = rng.normal(1, 0.5, len(chosen))
    signs = rng.choice([1, 1, 1, -0.5], n_test)[:, None]
    shared = normalise_rows(patterns)[rng.integers(6, size=n_test)] * signs
    return normalise_rows(shared + normalise_rows(rng.normal(size=(n_test, n_train))))


def draw_noise(kind: str, masks: np.ndarray, n_test: int, algorithm: int, rng) -> np.ndarray:
    """What is not of the mask, in units of its usual size."""
    n, second = len(masks), algorithm == 2
    if (kind == "heavy tails in one" and second) or kind == "heavy tails in both":
        return rng.standard_t(2.1, size=(n, n_test))
    noise = rng.normal(size=(n, n_test))
    if (kind == "wild models in one" and second) or kind == "wild models in both":
        return noise * np.where(rng.random(n) < 0.05, 20, 1)[:, None]
    if not second:
        return noise
    if kind.startswith("noise x"):
        return noise * float(kind.split()[-1])
    if kind == "noise by example":
        return noise * np.where(rng.random(n_test) < 0.3, 3, 1)
    if kind == "noise by mask":
        return noise * np.exp(3 * (masks[:, : masks.shape[1] // 16].mean(1) - 0.5))[:, None]
    if kind == "correlated seeds":
        return noise + 2 * rng.normal(size=(n, 1)) * rng.normal(size=n_test)
    return noise


def draw_outputs(kind: str, weights, masks, slots, algorithm: int, rng, initial=None):
    """Margins (n_models, n_test) of one algorithm, whose datamodels are ``weights``."""
    size = (SIGNAL / 0.25) ** 0.5
    second = algorithm == 2
    weights = weights * size
    if kind == "scale by example" and second:
        weights = weights * np.exp(rng.normal(0, 0.7, len(weights)))[:, None]
    margins = (masks - 0.5) @ weights.T
    if slots is not None:
        deviation = float(kind.split()[-1]) * size
        for slot in np.unique(slots):
            own = normalise_rows(initial.normal(size=weights.shape))
            rows = slots == slot
            margins[rows] += deviation * (masks[rows] - 0.5) @ own.T
            margins[rows] += initial.normal(size=len(weights))
    noise = (1 - SIGNAL) ** 0.5 * draw_noise(kind, masks, len(weights), algorithm, rng)
    margins = margins + noise
    if kind == "saturating" and second:
        margins = np.tanh(1.5 * margins)
    return margins * (2 if kind == "scale x 2" and second else 1)


def draw_null(kind: str, n_models: int, rng) -> tuple[list[Fitter], np.ndarray | None]:
    """Two algorithms that use their training data alike."""
    n_train, n_test = SIZES.get(kind, (N_TRAIN, N_TEST))
    truth = draw_truth(n_train, n_test, rng)
    slots = np.arange(n_models) % int(kind.split()[0]) if "slots" in kind else None
    masks, fits = draw_masks(n_models, n_train, 0.5, rng), []
    seed = rng.integers(2**32)
    for algorithm in (1, 2):
        if algorithm == 2 and kind == "own masks":
            masks = draw_masks(n_models, n_train, 0.5, rng)
        if algorithm == 2 and kind.startswith("alpha"):
            masks = draw_masks(n_models, n_train, 0.3, rng)
        initial = np.random.default_rng([seed, algorithm])
        margins = draw_outputs(kind, truth, masks, slots, algorithm, rng, initial)
        fits.append(Fitter(masks, margins, slots=slots, method="ridge"))
    return fits, slots


def begin(rotation: str) -> None:
    """Make a process ready."""
    global ROTATION
    ROTATION = rotation
    torch.set_num_threads(1)


def turned() -> dict:
    return {"n_directions": N_DIRECTIONS, "rotation": ROTATION}


def false_calls(job: tuple[str, int, int]) -> dict:
    """One comparison of algorithms that are alike."""
    kind, n_models, seed = job
    rng = np.random.default_rng([seed, n_models, NULLS.index(kind)])
    fits, slots = draw_null(kind, n_models, rng)
    comparison = compare(*(fit(np.arange(n_models)) for fit in fits), **turned())
    options = {"slots": slots, "seed": seed, "n_splits": N_SPLITS, "n_directions": N_DIRECTIONS}
    table = crossfit.cross_fitted_gaps(*fits, n_models, comparison=comparison, **options).directions
    return {
        "kind": kind,
        "models": n_models,
        "seed": seed,
        "called": int((table["q"] < LEVEL).sum()),
        "strong": int((table["evidence"] == "strong").sum()),
        "too few": bool(table["q"].isna().all()),
    }


def draw_scores(kind: str, weights: np.ndarray, n_models: int, algorithm: int, rng) -> np.ndarray:
    """Scores (n_models, n_test, n_train) of one algorithm's models: datamodels and noise alike."""
    second = algorithm == 2
    if kind == WRONG_SCORES:
        weights = weights + 0.4 * draw_truth(weights.shape[1], len(weights), rng)
    if kind == "scale by example" and second:
        weights = weights * np.exp(rng.normal(0, 0.7, len(weights)))[:, None]
    flat = weights.shape[0] * weights.shape[1]
    any_mask = np.ones((n_models, 16), bool)
    if kind == "noise by example":
        noise = rng.normal(size=(n_models, *weights.shape))
        noise *= np.where(rng.random(len(weights)) < 0.3, 3, 1)[:, None] if second else 1
    else:
        noise = draw_noise(kind, any_mask, flat, algorithm, rng).reshape(n_models, *weights.shape)
    scores = weights + noise / weights.shape[1] ** 0.5
    return scores.astype(np.float32) * (2 if kind == "scale x 2" and second else 1)


def false_calls_of_scores(job: tuple[str, int, int]) -> dict:
    """One comparison of algorithms that are alike, by the scores of few models.

    The outputs of these models and of some more, held out or tilted, are drawn as well.
    """
    kind, n_models, seed = job
    rng = np.random.default_rng([seed, n_models, SCORE_NULLS.index(kind), 7])
    truth = draw_truth(N_TRAIN, N_TEST, rng)
    masks, heldout = (draw_masks(n, N_TRAIN, 0.5, rng) for n in (n_models, N_HELDOUT))
    fits, outputs = [], "alike" if kind == WRONG_SCORES else kind
    for algorithm in (1, 2):
        margins = draw_outputs(outputs, truth, masks, None, algorithm, rng)
        scores = draw_scores(kind, truth, n_models, algorithm, rng)
        fits.append(Fitter(masks, margins, scores=scores, method="trak+ridge"))
    weights = [fit(np.arange(n_models)) for fit in fits]
    comparison = compare(*weights, **turned())
    options = {"seed": seed, "n_splits": N_SPLITS, "n_directions": N_DIRECTIONS}
    table = crossfit.cross_fitted_gaps(*fits, n_models, comparison=comparison, **options).directions
    told = [draw_outputs(outputs, truth, heldout, None, a, rng) for a in (1, 2)]
    z = []
    for row in table.itertuples():
        part, order = comparison[row.comparison], (0, 1) if row.comparison[0] == "1" else (1, 0)
        at = list(part.component).index(row.direction)
        pairs = tilted_masks(part.directions[at], N_PAIRS, seed=seed)
        toward = torch.from_numpy(normalise_rows(weights[order[1]]).astype(np.float32))
        changes, towards = [], []
        for a in order:
            ends = [draw_outputs(outputs, truth, m, None, a + 1, rng) for m in pairs]
            lengths = np.linalg.norm(weights[a], axis=1)
            changes.append((ends[0] - ends[1]) / lengths)
            towards.append(Outputs.measured(heldout, told[a], lengths).toward(toward).numpy())
        z.append(difference_along(tuple(changes), tuple(towards), part.projections[:, at]))
    called = table["q"] < LEVEL
    confirmed = called & (benjamini_hochberg(norm.sf(z)) < LEVEL)
    return {
        "kind": kind,
        "models": n_models,
        "seed": seed,
        "called": int(called.sum()),
        "strong": int((table["evidence"] == "strong").sum()),
        "confirmed": int(confirmed.sum()),
        "by outputs": int((table["confirmed"] == "confirmed").sum()),
        "too few": bool(table["q"].isna().all()),
    }


def draw_planted(kind: str, n_models: int, noise: float, rng):
    """A feature on a fifth of one class, used as ``kind`` says; its carriers and the truth."""
    labels = np.arange(N_TEST) % N_CLASSES
    carriers = np.flatnonzero(labels == 0)[: N_TEST // 10]
    truth = [draw_truth(N_TRAIN, N_TEST, rng)] * 2
    images = rng.permutation(N_TRAIN)[:20].reshape(2, 10)
    shares = {"only 1": (0.6, 0), "1 more": (0.6, 0.1), "not used": (0, 0)}.get(kind, (0.6, 0.6))
    for a, share in enumerate(shares):
        feature = np.zeros(N_TRAIN)
        feature[images[a if kind == "other images" else 0]] = 10**-0.5
        rows = truth[a].copy()
        rows[carriers] = (1 - share) ** 0.5 * rows[carriers] + share**0.5 * feature
        truth[a] = normalise_rows(rows)
    masks = draw_masks(n_models, N_TRAIN, 0.5, rng)
    fits = []
    for algorithm in (1, 2):
        null = f"noise x {noise}"
        margins = draw_outputs(null, truth[algorithm - 1], masks, None, algorithm, rng)
        fits.append(Fitter(masks, margins, method="ridge"))
    return fits, labels, carriers, truth


def words_and_intervals(job: tuple[str, int, float, int]) -> dict:
    """A planted feature: the word of the best direction that shows it, and intervals' coverage."""
    kind, n_models, noise, seed = job
    rng = np.random.default_rng([seed, n_models, KINDS.index(kind), int(10 * noise)])
    fits, labels, carriers, truth = draw_planted(kind, n_models, noise, rng)
    comparison = compare(*(fit(np.arange(n_models)) for fit in fits), **turned())
    options = {"seed": seed, "n_splits": N_SPLITS, "n_directions": N_DIRECTIONS, "top_k": TOP_K}
    asked = []  # the contrasts that each half is asked for

    def recorded(first, second, weights, of_class):
        asked.append(weights)
        return contrasts(first, second, weights, of_class)

    with patch.object(crossfit, "contrasts", recorded):
        found = crossfit.cross_fitted_gaps(
            *fits, n_models, comparison=comparison, labels=labels, **options
        )
    row = {"kind": kind, "models": n_models, "noise": noise, "seed": seed}
    row |= word_of_feature(comparison, found, labels, carriers)
    row |= contrasts_held(found.uses, asked, truth)
    levels = true_levels(fits, comparison, truth, n_models, seed)
    table = found.directions.set_index(["comparison", "direction"])
    gaps, ratios = [], []
    for (name, direction), (one, two) in levels.items():
        at = table.loc[name, direction]
        gaps.append(at["clean_low"] <= one - two <= at["clean_high"])
        ratios.append(at["ratio_low"] <= one / two <= at["ratio_high"])
    return row | {"gap": np.mean(gaps), "ratio": np.mean(ratios), "q": table["q"].min()}


def contrasts_held(uses: pd.DataFrame, asked: list[np.ndarray], truth) -> dict:
    """How often the intervals of shares, ratio and cosine hold the truth."""
    held = {"share": [], "times": [], "cosine": []}
    for side, name in enumerate(COMPARISONS):
        order = truth if side == 0 else truth[::-1]
        both = [[weights.T @ rows for rows in order] for weights in asked[side::2]]
        one, two = (np.mean([np.square(b[a]).sum(1) for b in both], 0) for a in (0, 1))
        dot = np.mean([(b[0] * b[1]).sum(1) for b in both], 0)
        table = uses[uses["comparison"] == name]
        true = {"share_first": one, "times": (one / two) ** 0.5, "cosine": dot / (one * two) ** 0.5}
        for key, value in true.items():
            inside = (table[f"{key}_low"] <= value) & (value <= table[f"{key}_high"])
            known = table[f"{key}_low"].notna()
            held[key.removesuffix("_first")] += inside[known].tolist()
    return {name: float(np.mean(values)) for name, values in held.items()}


def word_of_feature(comparison, found, labels, carriers) -> dict:
    """Of the end of a direction of 1 minus 2 where most carriers are, the word of their class."""
    best, member = (0, None), np.isin(np.arange(len(labels)), carriers)
    side = comparison["1_minus_2"]
    for position, component in enumerate(side.component):
        for end, sign in (("top", -1), ("bottom", 1)):
            n = int(member[np.argsort(sign * side.projections[:, position])[:TOP_K]].sum())
            best = max(best, (n, (component, end)), key=lambda pair: pair[0])
    if best[1] is None or best[0] < TOP_K // 2:
        return {"word": "not found"}
    uses = found.uses
    at = (uses["comparison"] == "1_minus_2") & (uses["direction"] == best[1][0])
    row = uses[at & (uses["end"] == best[1][1]) & (uses["label"] == 0)].iloc[0]
    return {"word": row["use"], "times": row["times"], "cosine": row["cosine"]}


def true_levels(fits, comparison, truth, n_models: int, seed: int) -> dict:
    """Explained variance under the true datamodels of what halves found for each direction."""
    rng, levels = np.random.default_rng(seed), {}
    for _ in range(N_SPLITS):
        for half in split_groups(n_models, 2, rng, None, group_models(n_models)):
            rows = [normalise_rows(fit(half)) for fit in fits]
            for name in COMPARISONS:
                directions = residual_directions(name, rows, 2 * N_DIRECTIONS)[0]
                weights = likeness_weights(comparison[name].directions @ directions.T)
                order = truth if name == "1_minus_2" else truth[::-1]
                true = [np.square(t @ directions.T).mean(0) @ weights.T for t in order]
                for position, component in enumerate(comparison[name].component):
                    at = levels.setdefault((name, component), [])
                    at.append([part[position] for part in true])
    return {key: np.mean(values, 0) for key, values in levels.items()}


def scores_held(pearson: float, n_masks: int, seed: int) -> bool:
    """Whether an LDS's interval holds that of all masks and test examples, which are alike."""
    rng = np.random.default_rng([seed, n_masks, int(100 * pearson)])
    shared, own = rng.normal(size=(n_masks, 1)), rng.normal(size=(2, n_masks, 100))
    true = 0.5 * shared + 0.75**0.5 * own[0]
    predicted = pearson * true + (1 - pearson**2) ** 0.5 * own[1]
    score, truth = lds(true, predicted), 6 / np.pi * np.arcsin(pearson / 2)
    return score.low <= truth <= score.high


def effects_held(n_slots: int, noise: float, seed: int) -> bool:
    """Whether the interval of a difference of effects holds it; 2 is ``noise`` times as noisy."""
    rng, slots = np.random.default_rng([seed, n_slots, int(noise)]), np.arange(64) % (n_slots or 64)
    of_example, given = rng.normal(0, 0.05, 40), []
    for size, spread in ((0.1, 0.03), (0.05, 0.03 * noise)):
        change = size + of_example + rng.normal(0, spread, (64, 40))
        change += rng.normal(0, spread, slots.max() + 1)[slots][:, None]
        given += [np.full((64, 40), 0.5), (0.5 + change).clip(0, 1)]
    found = difference(*given, slots_1=slots, slots_2=slots)
    return found.low <= 5 <= found.high


def coverage_rows(n: int) -> list[dict]:
    """How often intervals of scores and effects held the truth."""
    rows = []
    for pearson in (0.2, 0.4, 0.6, 0.8, 0.95):
        for n_masks in (64, 128):
            held = float(np.mean([scores_held(pearson, n_masks, seed) for seed in range(n)]))
            setting = f"{pearson}, {n_masks} masks"
            rows.append({"what": "LDS", "setting": setting, "sets": n, "held": held})
    for n_slots in (0, 4, 8, 32):
        for noise in (1, 3):
            held = float(np.mean([effects_held(n_slots, noise, seed) for seed in range(n)]))
            setting = f"{n_slots or 'no'} shared initialisations, noise x {noise}"
            rows.append({"what": "effects", "setting": setting, "sets": n, "held": held})
    return rows


def shares(rows: list[dict], key) -> dict:
    """Share of rows for which ``key`` holds, with its exact (Clopper and Pearson's) interval."""
    n, k = len(rows), sum(bool(key(row)) for row in rows)
    low = float(beta.ppf(0.025, k, n - k + 1)) if k else 0.0
    high = float(beta.ppf(0.975, k + 1, n - k)) if k < n else 1.0
    return {"share": k / n, "low": low, "high": high}


def null_rows(each: list[dict]) -> list[dict]:
    rows = []
    for kind, n_models in sorted({(r["kind"], r["models"]) for r in each}, key=_null_order):
        these = [r for r in each if (r["kind"], r["models"]) == (kind, n_models)]
        row = {"null": kind, "models": n_models, "comparisons": len(these)}
        row["too few"] = float(np.mean([r["too few"] for r in these]))
        row |= {"any": shares(these, lambda r: r["called"])["share"]}
        row |= {"any strong": shares(these, lambda r: r["strong"])["share"]}
        row |= {"high": shares(these, lambda r: r["called"])["high"]}
        rows.append(row | {"called": float(np.mean([r["called"] for r in these]))})
    return rows


def score_rows(each: list[dict]) -> list[dict]:
    """A row a null and number of models: share of comparisons with a call, and with one confirmed.

    Shares of directions too: of those called, how many retraining confirms.
    """
    found = []
    for kind in SCORE_NULLS:
        for n_models in sorted({r["models"] for r in each}):
            these = [r for r in each if (r["kind"], r["models"]) == (kind, n_models)]
            if not these:
                continue
            row = {"null": kind, "models": n_models, "comparisons": len(these)}
            row["any"] = shares(these, lambda r: r["called"])["share"]
            row |= {"high": shares(these, lambda r: r["called"])["high"]}
            for key in ("confirmed", "by outputs"):
                row[f"any {key}"] = shares(these, lambda r, key=key: r[key])["share"]
                row[key] = float(np.mean([r[key] for r in these]))
            found.append(row | {"called": float(np.mean([r["called"] for r in these]))})
    return found


def by_null(rows: list[dict]) -> list[dict]:
    """A row a null: share with a call at each number of models; None where nothing can be told."""
    found: dict[str, dict] = {}
    for row in rows:
        here = found.setdefault(row["null"], {"null": row["null"]})
        here[f"with_{row['models']}"] = None if row.get("too few") == 1 else row["any"]
    return list(found.values())


def held_rows(words: list[dict], coverage: list[dict]) -> list[dict]:
    """How often intervals held the truth: least, mean and most over all settings."""
    found = {name: [row[f"{name} held"] for row in words] for name in HELD}
    for row in coverage:
        found.setdefault(row["what"], []).append(row["held"])
    ends = ("least", min), ("mean", np.mean), ("most", max)
    return [
        {"what": what} | {name: float(of(values)) for name, of in ends}
        for what, values in found.items()
    ]


def _null_order(pair: tuple[str, int]) -> tuple[int, int]:
    return NULLS.index(pair[0]), pair[1]


def word_rows(each: list[dict]) -> list[dict]:
    """How often each word was given to each kind, and how often intervals held the truth."""
    rows = []
    for kind, n_models, noise in sorted({(r["kind"], r["models"], r["noise"]) for r in each}):
        key = (kind, n_models, noise)
        these = [r for r in each if (r["kind"], r["models"], r["noise"]) == key]
        row = {"kind": kind, "models": n_models, "noise": noise, "drawings": len(these)}
        words = pd.Series([r["word"] for r in these]).value_counts()
        row |= {word: int(words.get(word, 0)) for word in ("not found", *USES)}
        row["turned"] = row["only_2"] + row["more_2"]
        row["right"] = sum(int(words.get(w, 0)) for w in RIGHT.get(kind, ())) / len(these)
        row["wrong"] = sum(int(words.get(w, 0)) for w in WRONG.get(kind, ())) / len(these)
        row |= {f"{name} held": float(np.mean([r[name] for r in these])) for name in HELD}
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=int, nargs="+", default=[64, 128, 240, 720])
    parser.add_argument("--comparisons", type=int, default=200, help="of each null and number")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--rotation", default="none", help="of directions: varimax turns them")
    parser.add_argument("--quick", action="store_true", help="five nulls, few comparisons")
    parser.add_argument("--each", type=Path, help="keep every comparison here, as it comes")
    parser.add_argument("--out", type=Path, help="write JSON here")
    options = parser.parse_args()
    n, budgets, nulls = options.comparisons, options.models, NULLS
    noises, drawings = (1, 2), n // 2
    if options.quick:
        n, drawings, budgets, nulls = 40, 10, [128], QUICK_NULLS
    kept = {"nulls": [], "scores": [], "words": []}
    if options.each and options.each.exists():
        kept |= json.loads(options.each.read_text())
    done = {(r["kind"], r["models"], r["seed"]) for r in kept["nulls"]}
    jobs = [(kind, m, seed) for m in budgets for seed in range(n) for kind in nulls]
    jobs = [job for job in jobs if job not in done]
    few = [32] if options.quick else FEW
    scores = [(kind, m, seed) for m in few for seed in range(drawings) for kind in SCORE_NULLS]
    done = {(r["kind"], r["models"], r["seed"]) for r in kept["scores"]}
    scores = [job for job in scores if job not in done]
    planted = [
        (k, m, s, seed) for m in budgets for seed in range(drawings) for k in KINDS for s in noises
    ]
    done = {(r["kind"], r["models"], r["noise"], r["seed"]) for r in kept["words"]}
    planted = [job for job in planted if job not in done]
    start = time.perf_counter()
    parts = (
        ("nulls", false_calls, jobs),
        ("scores", false_calls_of_scores, scores),
        ("words", words_and_intervals, planted),
    )
    with multiprocessing.Pool(options.workers, begin, (options.rotation,)) as pool:
        for name, work, todo in parts:
            found = pool.imap(work, todo, chunksize=4)
            for number, row in enumerate(tqdm(found, total=len(todo), mininterval=5, desc=name)):
                kept[name].append(row)
                if options.each and number % 100 == 99:
                    options.each.write_text(json.dumps(kept, default=float))
    if options.each:
        options.each.write_text(json.dumps(kept, default=float))
    report = {"rotation": options.rotation}
    report |= summary(kept, coverage_rows(30 if options.quick else 1000))
    for part in ("nulls", "scores", "words", "coverage"):
        print(pd.DataFrame(report[part]).round(3).to_string(index=False), end="\n\n")
    for bar in report["bars"]:
        print(bar)
    print(f"{time.perf_counter() - start:.0f} s")
    if options.out:
        options.out.write_text(json.dumps(report, indent=1, default=float))


def summary(each: dict[str, list[dict]], coverage: list[dict]) -> dict:
    nulls, words = null_rows(each["nulls"]), word_rows(each["words"])
    scores = score_rows(each["scores"])
    told = [row for row in nulls if row["too few"] < 1]
    worst = max(told, key=lambda row: row["any"])
    planted = [row for row in words if row["kind"] in RIGHT]
    bars = [
        ("largest share of null comparisons with a call", worst["any"], AIM, worst["any"] <= AIM)
    ]
    right = [row["any"] for row in scores if row["null"] != WRONG_SCORES]
    bars.append(("the same with scores of few models", max(right), AIM, max(right) <= AIM))
    sure = max(row["any confirmed"] for row in scores)
    bars.append(("share with a false call that retraining confirms", sure, AIM, sure <= AIM))
    wrong = max(row["wrong"] for row in planted)
    bars.append(("largest share of drawings with a wrong word", wrong, LEVEL, wrong <= LEVEL))
    for name in HELD:
        held = [row[f"{name} held"] for row in words]
        bars.append(
            (f"least coverage of the {name}'s 95% interval", min(held), 0.93, min(held) >= 0.93)
        )
    held = min(row["held"] for row in coverage)
    what = "least coverage of the 95% intervals of LDS and effects"
    bars.append((what, held, COVER, held >= COVER))
    about = {"machine": machine(), "n_train": N_TRAIN, "n_test": N_TEST, "splits": N_SPLITS}
    keys = ("what", "value", "aim", "met")
    bars = [dict(zip(keys, bar, strict=True)) for bar in bars]
    parts = {"nulls": nulls, "by_null": by_null(nulls), "words": words, "coverage": coverage}
    parts |= {"scores": scores, "by_null_scores": by_null(scores)}
    return about | parts | {"held": held_rows(words, coverage), "bars": bars}


if __name__ == "__main__":
    main()
