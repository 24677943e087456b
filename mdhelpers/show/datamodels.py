"""Figures about models, datamodels, captions and effects.

Every function draws on the `Axes` it is given and returns it. Colours and fonts come from
`style`; figures about directions are in `comparison_plots`, mosaics of images in `gallery`.

Figures of learning curves; like those of `plots`, each draws on the `Axes` that it is given.

What notebook 03 says about the quality of its datamodels: a table and sentences.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from IPython.display import Markdown
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullFormatter

from mdhelpers.method.datamodels import METHODS
from mdhelpers.method.learning_curves import Law
from mdhelpers.runs.run import Run
from mdhelpers.runs.stage import DATAMODELS
from mdhelpers.show.models import algorithm_names
from mdhelpers.show.style import (
    ALGORITHM_COLORS,
    CAPTION_COLOR,
    COMPARISONS,
    DEFAULT_NAMES,
    EXAMPLE_COLORS,
    INK,
    MARKERS,
    NULL_COLOR,
    escape_markdown,
    escaped,
    label_text,
    label_texts,
    legend_below,
    need_columns,
)
from mdhelpers.stages.datamodels import plan


def accuracy_histogram(ax: Axes, accuracies: Mapping[str, np.ndarray]) -> Axes:
    """How accurate the models of each algorithm are.

    Parameters
    ----------
    ax : Axes
    accuracies : mapping of the algorithm's name to array of shape (n_models,)
        Test accuracies in [0, 1]; algorithm 1 first.

    Returns
    -------
    Axes
    """
    percent = {name: 100 * np.asarray(a) for name, a in accuracies.items()}
    if any(np.isfinite(values).all() for values in percent.values()):
        _histogram(ax, percent, "{name}: mean {mean:.1f}%")
    else:
        ax.text(0.5, 0.5, "not known of these models", ha="center", transform=ax.transAxes)
    ax.set(xlabel="test accuracy of a model (%)", ylabel="share of models (%)")
    return ax


def margin_histogram(ax: Axes, margins: Mapping[str, np.ndarray]) -> Axes:
    """Correct-class margins; to the left of zero a model is wrong.

    Parameters
    ----------
    ax : Axes
    margins : mapping of the algorithm's name to array of shape (n_models, n_test)
        Logit of the label minus the largest other; algorithm 1 first.

    Returns
    -------
    Axes
    """
    _histogram(ax, margins, "{name}: mean {mean:.1f}", bins=60)
    ax.axvline(0, color=INK, linewidth=1)
    ax.text(0, 1.0, "wrong ← ", ha="right", va="bottom", transform=ax.get_xaxis_transform())
    ax.text(0, 1.0, " → right", ha="left", va="bottom", transform=ax.get_xaxis_transform())
    ax.set(xlabel="correct-class margin (logits)", ylabel="share of model–image pairs (%)")
    return ax


def loss_curves(ax: Axes, losses: Mapping[str, np.ndarray]) -> Axes:
    """Training loss by epoch of a few models of each algorithm.

    Parameters
    ----------
    ax : Axes
    losses : mapping of the algorithm's name to array of shape (n_models, n_epochs)
        Mean training loss of each epoch; algorithm 1 first.

    Returns
    -------
    Axes
    """
    for (name, curves), color in zip(losses.items(), ALGORITHM_COLORS.values(), strict=True):
        epochs = np.arange(1, curves.shape[1] + 1)
        lines = ax.plot(epochs, np.asarray(curves).T, color=color, alpha=0.6, linewidth=1)
        lines[0].set_label(label_text(name))
    if not any(np.isfinite(curves).any() for curves in losses.values()):
        ax.text(0.5, 0.5, "not known of these models", ha="center", transform=ax.transAxes)
    ax.set(xlabel="epoch", ylabel="training loss", ylim=(0, None))
    ax.legend(frameon=False)
    return ax


def lds_histogram(ax: Axes, per_example: Mapping[str, np.ndarray]) -> Axes:
    """Linear datamodeling score of each test example, by algorithm.

    Parameters
    ----------
    ax : Axes
    per_example : mapping of the algorithm's name to array of shape (n_test,)
        Correlations in [-1, 1]; algorithm 1 first. NaN (a margin that never varies) is left out.

    Returns
    -------
    Axes
    """
    _histogram(ax, per_example, "{name}: mean {mean:.2f}")
    ax.axvline(0, color=INK, linewidth=1)
    ax.set(
        xlabel="correlation of true and predicted margin (held-out masks)",
        ylabel="share of test images (%)",
    )
    return ax


def cosine_histogram(ax: Axes, cosines) -> Axes:
    """How alike the two datamodels of a test example are (paper, Figure 18).

    Parameters
    ----------
    ax : Axes
    cosines : array of shape (n_test,), or mapping of a pair's name to such an array

    Returns
    -------
    Axes
    """
    if isinstance(cosines, Mapping):
        _histogram(ax, cosines, "{name}: median {median:.2f}", center=np.nanmedian)
    else:
        _histogram(
            ax, {"": cosines}, "median {median:.2f}", colors=[NULL_COLOR], center=np.nanmedian
        )
    ax.set(
        xlabel="cosine between the two datamodels of a test image",
        ylabel="share of test images (%)",
    )
    return ax


def predicted_against_true(
    ax: Axes, true, predicted, *, examples: Sequence[int] = (), scores: Sequence[float] = ()
) -> Axes:
    """Margins that models had against those their datamodels foretold, on held-out masks.

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
        Their rank correlations, one a test example, for the legend.

    Returns
    -------
    Axes

    Raises
    ------
    ValueError
        If the shapes differ or more than six examples are asked for.
    """
    true, predicted = np.asarray(true), np.asarray(predicted)
    if true.shape != predicted.shape or true.ndim != 2:
        raise ValueError(
            f"true has shape {true.shape} and predicted {predicted.shape}; "
            "expected the same (n_masks, n_test)."
        )
    if len(examples) > len(EXAMPLE_COLORS):
        raise ValueError(f"Got {len(examples)} examples; at most {len(EXAMPLE_COLORS)} have a hue.")
    limits = _common_limits(true, predicted)
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
    ax.set(xlabel="predicted margin", ylabel="true margin", xlim=limits, ylim=limits)
    ax.set_aspect("equal")
    return ax


def caption_bars(ax: Axes, captions: pd.DataFrame, *, top_k: int = 10) -> Axes:
    """The captions that set a subpopulation apart, best first.

    Parameters
    ----------
    ax : Axes
    captions : DataFrame
        Columns caption and score.
    top_k : int
        How many to show.

    Returns
    -------
    Axes

    Raises
    ------
    ValueError
        If a column is missing.
    """
    need_columns(captions, ("caption", "score"))
    best = captions.nlargest(top_k, "score")
    ax.barh(np.arange(len(best)), best["score"], color=CAPTION_COLOR, height=0.7)
    ax.set_yticks(np.arange(len(best)), [label_text(c) for c in best["caption"]])
    ax.invert_yaxis()
    ax.axvline(0, color=INK, linewidth=1)
    ax.tick_params(axis="y", length=0)
    ax.set_xlabel("how much better it fits here than elsewhere")
    return ax


def effect_curves(
    ax: Axes,
    table: pd.DataFrame,
    *,
    names: Sequence[str] = DEFAULT_NAMES,
    placebo: pd.DataFrame | None = None,
) -> Axes:
    """Effect of a transformation on the confidence in a class (paper, Figure 4, right).

    Parameters
    ----------
    ax : Axes
    table : DataFrame
        Columns intensity, algorithm (1 or 2), effect, low, high (percentage points): one
        transformation and one class.
    names : pair of str
        What to call algorithms 1 and 2.
    placebo : DataFrame, optional
        The same for a feature that was never planted; drawn in grey.

    Returns
    -------
    Axes

    Raises
    ------
    ValueError
        If a column is missing or an algorithm has two effects at one intensity.
    """
    names = label_texts(names)
    ax.axhline(0, color=INK, linewidth=1)
    for frame, is_placebo in ((table, False), (placebo, True)):
        if frame is None:
            continue
        need_columns(frame, ("intensity", "algorithm", "effect", "low", "high"))
        if frame.duplicated(["intensity", "algorithm"]).any():
            raise ValueError(
                "An algorithm has several effects at one intensity; "
                "choose the rows of one transformation and one class first."
            )
        for algorithm, rows in frame.sort_values("intensity").groupby("algorithm"):
            _effect_curve(ax, rows, algorithm, names[algorithm - 1], is_placebo)
    ax.set(xlabel="intensity", ylabel="change of confidence (points)")
    ax.grid(True, axis="y")
    legend_below(ax, columns=2)
    return ax


def _histogram(ax, samples, label, *, bins=30, colors=None, center=np.nanmean) -> None:
    """Overlaid shares of each sample, a dashed line at its centre, figures in the legend."""
    samples = {name: np.ravel(values) for name, values in samples.items()}
    samples = {name: values[np.isfinite(values)] for name, values in samples.items()}
    edges = np.histogram_bin_edges(np.concatenate(list(samples.values())), bins=bins)
    colors = colors or [*ALGORITHM_COLORS.values(), *EXAMPLE_COLORS]
    for color, (name, values) in zip(colors, samples.items(), strict=False):
        text = label.format(
            name=label_text(name, 28), mean=np.mean(values), median=np.median(values)
        )
        weights = np.full(len(values), 100 / len(values))
        ax.hist(values, edges, weights=weights, color=color, alpha=0.3)
        ax.hist(values, edges, weights=weights, color=color, histtype="step", linewidth=1.5)
        ax.axvline(center(values), color=color, linestyle="--", linewidth=1.5, label=text)
    ax.margins(x=0)
    legend_below(ax, columns=2)


def _common_limits(*arrays) -> tuple[float, float]:
    low = min(float(np.min(a)) for a in arrays)
    high = max(float(np.max(a)) for a in arrays)
    pad = 0.03 * (high - low) or 1.0
    return low - pad, high + pad


def _effect_curve(ax, rows, algorithm: int, name: str, is_placebo: bool) -> None:
    color = NULL_COLOR if is_placebo else ALGORITHM_COLORS[algorithm]
    label = f"placebo, {name}" if is_placebo else name
    marker = MARKERS[COMPARISONS[algorithm - 1]]
    line, order = ("--", 2) if is_placebo else ("-", 3)
    ax.fill_between(rows["intensity"], rows["low"], rows["high"], color=color, alpha=0.2, lw=0)
    ax.plot(
        rows["intensity"],
        rows["effect"],
        line,
        color=color,
        marker=marker,
        label=label,
        zorder=order,
    )


FAR = 4  # how far the curves are carried on, times the models that there are
_MARKERS = {1: "o", 2: "s"}


def learning_curves(ax: Axes, quality, *, score: str, names=DEFAULT_NAMES) -> Axes:
    """LDS or cosine against the number of models, and carried on to four times as many.

    Parameters
    ----------
    ax : Axes
    quality : StudyQuality
        What `mdhelpers.stages.datamodels.measure_quality` gives.
    score : str
        "lds", with the noise ceiling as a dotted line where it was measured, or "cosine".
    names : pair of str
        What to call algorithms 1 and 2.

    Returns
    -------
    Axes
    """
    names = label_texts(names)
    if not len(quality.curves):
        ax.axis("off")
        ax.text(0.5, 0.5, "too few models to be halved", ha="center", transform=ax.transAxes)
        return ax
    for algorithm, name in enumerate(names, 1):
        color, table = ALGORITHM_COLORS[algorithm], quality.curve(algorithm)
        points = table[table[score].notna()]
        spread = [points[score] - points[f"{score}_low"], points[f"{score}_high"] - points[score]]
        style = {"color": color, "marker": _MARKERS[algorithm], "linestyle": "", "capsize": 3}
        ax.errorbar(
            points["n_models"], points[score], np.clip(spread, 0, None), **style, label=name
        )
        if laws := quality.law(algorithm):
            half, there = table["n_models"].iloc[-2:]
            n = np.geomspace(half, FAR * there, 40)
            _carried_on(ax, laws, n, score, color)
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
    return ax


_LABELS = {
    "lds": "LDS (Spearman, held-out masks)",
    "cosine": "cosine between disjoint fits",
}


def _carried_on(ax: Axes, laws: list[Law], n: np.ndarray, score: str, color: str) -> None:
    values = np.array([getattr(law, score)(n) for law in laws])
    low, high = np.percentile(values, [2.5, 97.5], axis=0)
    ax.fill_between(n, low, high, color=color, alpha=0.2, linewidth=0)
    ax.plot(n, values[0], color=color, linestyle="--", linewidth=1.5)


def quality_table(run: Run) -> pd.DataFrame:
    """Ceiling, share, reliability and plateau of both algorithms; rows that were measured."""
    figures, names = run.results[DATAMODELS], algorithm_names(run)
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
        for a, name in enumerate(names, 1)
    }
    return pd.DataFrame(columns).dropna(how="all").astype(float).round(3)


def ceiling(run: Run) -> Markdown:
    """How near the datamodels come to what any function of the mask could do."""
    figures, names = run.results[DATAMODELS], escaped(algorithm_names(run))
    if "ceiling_1" not in figures:
        return Markdown("Held-out masks were trained once only: no ceiling.")
    parts = [
        f"**{figures[f'share_{a}']:.0%}** of the ceiling of {figures[f'ceiling_{a}']:.2f} for "
        f"*{names[a - 1]}* [{figures[f'share_{a}_low']:.0%}, {figures[f'share_{a}_high']:.0%}]"
        for a in (1, 2)
    ]
    return Markdown(
        f"The datamodels reach {' and '.join(parts)}. What is missing to 100% is their own doing: "
        "too few models, or what a linear function cannot say. What is missing from the ceiling to "
        "1 is the seeds' doing."
    )


def reliability(run: Run) -> Markdown:
    """What halves say of the fit on all models."""
    figures, names = run.results[DATAMODELS], escaped(algorithm_names(run))
    if "half_cosine_1" not in figures:
        return Markdown("There are too few models in a slot to be halved.")
    parts = [
        f"{figures[f'half_cosine_{a}']:.2f} for *{names[a - 1]}*"
        + (
            f" ({known:.2f} to expect of all)"
            if (known := figures.get(f"cosine_of_all_{a}"))
            else ""
        )
        for a in (1, 2)
    ]
    holds = {
        METHODS[2]: "For a difference of means this is Spearman and Brown's formula.",
        METHODS[1]: "Spearman and Brown's formula would say less: in ridge regression each weight "
        "gains from the others.",
    }
    more = holds.get(figures["method"], "Spearman and Brown's formula does not hold for the lasso.")
    return Markdown(
        f"Fits on {figures['n_half_1']} models agree with a cosine of {' and '.join(parts)}. {more}"
    )


def planner(run: Run) -> Markdown:
    """Where the curves level off, and what more models would give."""
    figures, names = run.results[DATAMODELS], escaped(algorithm_names(run))
    parts = []
    for a, name in enumerate(names, 1):
        if plateau := figures.get(f"plateau_{a}"):
            ceiling = figures.get(f"ceiling_{a}")
            under = f", under a ceiling of {ceiling:.2f}" if ceiling else ""
            parts.append(f"*{name}* at an LDS of {plateau:.2f}{under}")
    levels = [f"The curves level off for {'; '.join(parts)}."] if parts else []
    return Markdown("\n".join(f"- {line}" for line in [*levels, *map(escape_markdown, plan(run))]))


def datamodel_quality(run: Run) -> pd.DataFrame:
    """LDS of both algorithms with intervals, and how sparse the datamodels are."""
    figures, names = run.results[DATAMODELS], algorithm_names(run)
    rows = {
        names[a - 1]: {
            "LDS within slots (Spearman)": figures[f"lds_{a}"],
            "95% interval, low": figures[f"lds_{a}_low"],
            "95% interval, high": figures[f"lds_{a}_high"],
            "the same, Pearson": figures[f"lds_{a}_pearson"],
            "LDS, slots not removed": figures[f"lds_{a}_raw"],
            "weights that are not zero": figures[f"nonzero_{a}"],
            "best λ at the path's end": figures[f"lam_at_edge_{a}"],
        }
        for a in (1, 2)
    }
    return pd.DataFrame(rows).round(3)


def draw_predictions(axes, fits, *, names) -> None:
    """Foretold against true outputs of held-out models, one panel an algorithm.

    The test images in colour are foretold better than 95, 70, 45 and 20% of all.
    """
    parts = (axes, names, fits.true, fits.predicted, fits.lds)
    for ax, name, true, predicted, score in zip(*parts, strict=True):
        order = np.argsort(score.per_example)
        examples = order[(np.array([0.95, 0.7, 0.45, 0.2]) * (len(order) - 1)).astype(int)]
        chosen = {"examples": examples, "scores": score.per_example}
        predicted_against_true(ax, true, predicted, **chosen).set_title(label_text(name))


def draw_deviations(axes, fits, *, names) -> None:
    """As `draw_predictions`, each test image's mean over the held-out models taken away."""
    for ax, name, true, predicted in zip(axes, names, fits.true, fits.predicted, strict=True):
        parts = (values - values.mean(0) for values in (true, predicted))
        predicted_against_true(ax, *parts).set_title(label_text(name))
        ax.set(xlabel="predicted margin, less its mean", ylabel="true margin, less its mean")


def example_of_disagreement(fits) -> int:
    """The test image whose two datamodels differ most, among the half that is best predicted."""
    score = np.minimum(*(np.nan_to_num(lds.per_example) for lds in fits.lds))
    one, two = (fit.weights for fit in fits.datamodels)
    norms = np.linalg.norm(one, axis=1) * np.linalg.norm(two, axis=1)
    cosine = (one * two).sum(axis=1) / np.where(norms > 0, norms, np.inf)
    cosine[(score < np.median(score)) | (norms == 0)] = np.inf
    return int(cosine.argmin())
