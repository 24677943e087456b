"""Page 03: how well datamodels predict, how near that is to the best, and what they point to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from mdhelpers.runs.run import Run
from mdhelpers.runs.stage import DATAMODELS, MODELS
from mdhelpers.show.comparison import cosine_histogram
from mdhelpers.show.style import (
    ALGORITHM_COLORS,
    DEFAULT_NAMES,
    EXAMPLE_COLORS,
    INK,
    draw_if,
    histogram,
    label_text,
    label_texts,
    legend_below,
)
from mdhelpers.stages.datamodels import StudyFits, StudyQuality, needs

FAR = 4  # how far the curves are carried on, times the models that there are
_MARKERS = {1: "o", 2: "s"}
_LABELS = {
    "lds": "LDS (Spearman, held-out masks)",
    "cosine": "cosine between disjoint fits",
}


def lds_table(run: Run) -> pd.DataFrame:
    """LDS of both algorithms with intervals, how sparse the datamodels are, and a verdict.

    Datamodels *predict* margins where the LDS' interval lies above zero.
    """
    figures, rows = run.results[DATAMODELS], {}
    for a, name in enumerate(run.names, 1):
        seen = figures[f"lds_{a}_low"] > 0
        rows[name] = {
            "LDS within slots": figures[f"lds_{a}"],
            "95%, low": figures[f"lds_{a}_low"],
            "high": figures[f"lds_{a}_high"],
            "Pearson": figures[f"lds_{a}_pearson"],
            "slots not removed": figures[f"lds_{a}_raw"],
            "weights not zero": figures[f"nonzero_{a}"],
            "best λ at the path's end": figures[f"lam_at_edge_{a}"],
            "verdict": "predict" if seen else "not told from chance",
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("algorithm").round(3)


def quality_table(run: Run) -> pd.DataFrame:
    """Ceiling, share, reliability and plateau of both algorithms; rows that were measured."""
    figures = run.results[DATAMODELS]
    rows = {
        "LDS": "lds_{}",
        "noise ceiling of the LDS": "ceiling_{}",
        "LDS over ceiling": "share_{}",
        "the same, 95% interval, low": "share_{}_low",
        "the same, 95% interval, high": "share_{}_high",
        "two trainings of a mask, rank correlation": "seed_reliability_{}",
        "models in a half": "n_half_{}",
        "cosine between halves": "half_cosine_{}",
        "cosine to expect between two sets of all models": "cosine_of_all_{}",
        "LDS to expect of infinitely many models": "plateau_{}",
    }
    columns = {
        name: {what: figures.get(key.format(a)) for what, key in rows.items()}
        for a, name in enumerate(run.names, 1)
    }
    table = pd.DataFrame(columns).dropna(how="all").astype(float).round(3).astype(object)
    for row in table.index.intersection(["models in a half"]):
        table.loc[row] = [whole(n) for n in table.loc[row]]
    return table


def whole(number: float) -> int | str:
    """A count, that may be too large to say."""
    return round(number) if np.isfinite(number) else "∞" if number > 0 else "–"


def lds_histogram(ax: Axes, per_example: Mapping[str, np.ndarray]) -> Axes:
    """LDS of each test image, (n_test,), under either algorithm.

    NaN (a margin that never varies) is left out.
    """
    histogram(ax, per_example, "{name}: mean {mean:.2f}")
    ax.axvline(0, color=INK, linewidth=1)
    ax.set(
        xlabel="correlation of true and predicted margin (held-out masks)",
        ylabel="share of test images (%)",
    )
    return ax


def half_cosines(ax: Axes, quality: StudyQuality, *, names: Sequence[str]) -> Axes:
    """How alike two datamodels of each test image are, fitted on disjoint halves of the models."""
    draw_if(quality.half_cosines(names), cosine_histogram, ax)
    ax.set_xlabel("cosine between fits on disjoint halves of the models")
    return ax


def predicted(fits: StudyFits, *, names: Sequence[str]) -> Figure:
    """Predicted against true outputs of held-out models, a panel per algorithm.

    The test images in colour are predicted better than 95, 70, 45 and 20% of all.
    """
    fig, axes = plt.subplots(1, 2, figsize=(9, 5))
    parts = (axes, names, fits.true, fits.predicted, fits.lds)
    for ax, name, true, predicted, score in zip(*parts, strict=True):
        order = np.argsort(score.per_example)
        examples = order[(np.array([0.95, 0.7, 0.45, 0.2]) * (len(order) - 1)).astype(int)]
        chosen = {"examples": examples, "scores": score.per_example}
        predicted_against_true(ax, true, predicted, **chosen).set_title(label_text(name))
    return fig


def deviations(fits: StudyFits, *, names: Sequence[str]) -> Figure:
    """As `predicted`, each test image's mean over the held-out models taken away."""
    fig, axes = plt.subplots(1, 2, figsize=(9, 4.6))
    for ax, name, true, predicted in zip(axes, names, fits.true, fits.predicted, strict=True):
        parts = (values - values.mean(0) for values in (true, predicted))
        predicted_against_true(ax, *parts).set_title(label_text(name))
        ax.set(
            xlabel="predicted margin, less its mean (logits)",
            ylabel="true margin, less its mean (logits)",
        )
    return fig


def predicted_against_true(
    ax: Axes, true, predicted, *, examples: Sequence[int] = (), scores: Sequence[float] = ()
) -> Axes:
    """Margins that models had against those their datamodels predicted, on held-out masks.

    All pairs are pooled in grey hexagons (darker: more pairs, on a logarithmic scale); a few
    test examples are picked out in colour.

    Parameters
    ----------
    ax : Axes
    true, predicted : array, shape (n_masks, n_test)
        Correct-class margins.
    examples : sequence of int
        Up to six indices of test examples.
    scores : sequence of float
        Rank correlations of all test examples, for the legend.
    """
    true, predicted = np.asarray(true), np.asarray(predicted)
    if true.shape != predicted.shape or true.ndim != 2:
        raise ValueError(
            f"true has shape {true.shape} and predicted {predicted.shape}; "
            "expected the same (n_masks, n_test)."
        )
    if len(examples) > len(EXAMPLE_COLORS):
        raise ValueError(f"Got {len(examples)} examples; at most {len(EXAMPLE_COLORS)} have a hue.")
    low, high = min(true.min(), predicted.min()), max(true.max(), predicted.max())
    pad = 0.03 * float(high - low) or 1.0
    limits = float(low) - pad, float(high) + pad
    ax.hexbin(
        predicted.ravel(),
        true.ravel(),
        gridsize=45,
        bins="log",
        mincnt=1,
        cmap="Greys",
        extent=(*limits, *limits),
        linewidths=0,
        alpha=0.75,
    )
    ax.plot(limits, limits, color=INK, linewidth=1, linestyle=":")
    for color, example in zip(EXAMPLE_COLORS, examples, strict=False):
        x, y = predicted[:, example], true[:, example]
        label = f"test image {example}" + (f", {scores[example]:.2f}" if len(scores) else "")
        ax.scatter(x, y, s=16, color=color, edgecolor="white", linewidth=0.4, label=label)
    if len(examples):
        legend_below(ax, columns=2 if len(scores) else 3)
    ax.set(
        xlabel="predicted margin (logits)", ylabel="true margin (logits)", xlim=limits, ylim=limits
    )
    ax.set_aspect("equal")
    return ax


def learning_curves(quality: StudyQuality, *, names: Sequence[str] = DEFAULT_NAMES) -> Figure:
    """LDS and cosine against the number of models, and carried on to four times as many.

    The noise ceiling of the LDS is a dotted line, where it was measured.
    """
    fig, axes = plt.subplots(1, 2, figsize=(9, 4.4))
    for ax, score in zip(axes, ("lds", "cosine"), strict=True):
        if len(quality.curves):
            _curves(ax, quality, score, label_texts(names))
        else:
            ax.axis("off")
            ax.text(0.5, 0.5, "too few models to be halved", ha="center", transform=ax.transAxes)
    return fig


def _curves(ax: Axes, quality: StudyQuality, score: str, names: Sequence[str]) -> None:
    for algorithm, name in enumerate(names, 1):
        color, table = ALGORITHM_COLORS[algorithm], quality.curve(algorithm)
        points = table[table[score].notna()]
        spread = [points[score] - points[f"{score}_low"], points[f"{score}_high"] - points[score]]
        look = {"color": color, "marker": _MARKERS[algorithm], "linestyle": "", "capsize": 3}
        bars = np.clip(spread, 0, None)
        ax.errorbar(points["n_models"], points[score], bars, **look, label=name)
        if laws := quality.law(algorithm):
            n = np.geomspace(table["n_models"].iloc[-2], FAR * table["n_models"].iloc[-1], 40)
            values = np.array([getattr(law, score)(n) for law in laws])
            low, high = np.percentile(values, [2.5, 97.5], axis=0)
            ax.fill_between(n, low, high, color=color, alpha=0.2, linewidth=0)
            ax.plot(n, values[0], color=color, linestyle="--", linewidth=1.5)
        ceiling = quality.figures.get(f"ceiling_{algorithm}")
        if score == "lds" and ceiling is not None:
            ax.axhline(ceiling, color=color, linestyle=":", label=f"noise ceiling, {name}")
    ax.set(xscale="log", xlabel="models", ylabel=_LABELS[score], ylim=(0, 1))
    ticks = np.unique(quality.curves["n_models"])
    ax.set_xticks([*ticks, FAR * ticks[-1]])
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.grid(True, axis="y")
    legend_below(ax, columns=2)


def models_needed(run: Run, quality: StudyQuality, *, cosine: float, share: float) -> pd.DataFrame:
    """Models that a cosine between disjoint fits, and a share of the plateau's LDS, would take.

    No rows where nothing stands out from noise, so that no curve tells. Beyond `FAR` times the
    models there are, a number is a *guess*.
    """
    there, rows = run.results[MODELS]["n_models"], []
    targets = {f"cosine of {cosine:g}": {"cosine": cosine}}
    targets[f"{share:.0%} of the plateau"] = {"share": share}
    for target, goal in targets.items():
        for need in needs(run, quality, **goal):
            verdict = "within reach" if need.models > there else "there already"
            verdict = "a guess" if need.models > FAR * there else verdict
            verdict = "out of reach" if np.isinf(need.models) else verdict
            numbers = [whole(n) for n in (need.models, need.low, need.high)]
            rows.append((target, need.name, *numbers, verdict))
    columns = ["target", "algorithm", "models", "95%, low", "high", "verdict"]
    return pd.DataFrame(rows, columns=columns).set_index(columns[:2])


def example_of_disagreement(fits: StudyFits) -> int:
    """The test image whose two datamodels differ most, among the half that is best predicted."""
    score = np.minimum(*(np.nan_to_num(lds.per_example) for lds in fits.lds))
    one, two = (fit.weights for fit in fits.datamodels)
    norms = np.linalg.norm(one, axis=1) * np.linalg.norm(two, axis=1)
    cosine = (one * two).sum(axis=1) / np.where(norms > 0, norms, np.inf)
    cosine[(score < np.median(score)) | (norms == 0)] = np.inf
    return int(cosine.argmin())
