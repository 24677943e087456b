"""The look of every figure: colours, fonts, and what readers call a comparison.

Algorithm 1 is blue and algorithm 2 vermilion in every figure of the book, placebos and nulls are
grey, planted truth is green: colours of Okabe and Ito, which colour-blind readers tell apart.
"""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes

ALGORITHM_COLORS = {1: "#0072B2", 2: "#D55E00"}
NULL_COLOR = "#7F7F7F"
TRUTH_COLOR = "#009E73"
INK = "#222222"
CAPTION_COLOR = "#4C6A7D"
EXAMPLE_COLORS = ("#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#0072B2", "#D55E00")
DEFAULT_NAMES = ("algorithm 1", "algorithm 2")
COMPARISONS = ("1_minus_2", "2_minus_1")
MARKERS = {"1_minus_2": "o", "2_minus_1": "s"}


def use_style() -> None:
    """Set matplotlib's defaults to the book's: readable at 400 pixels and on paper."""
    plt.rcParams.update(
        {
            "figure.figsize": (6.4, 3.8),
            "figure.dpi": 110,
            "savefig.dpi": 110,
            "figure.constrained_layout.use": True,
            "figure.facecolor": "white",
            "font.size": 11,
            "axes.titlesize": 11,
            "axes.titleweight": "bold",
            "axes.titlelocation": "left",
            "axes.labelsize": 11,
            "xtick.labelsize": 10,
            "ytick.labelsize": 10,
            "legend.fontsize": 10,
            "legend.frameon": False,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.edgecolor": "#666666",
            "axes.labelcolor": INK,
            "text.color": INK,
            "axes.axisbelow": True,
            "grid.color": "#E4E4E4",
            "lines.linewidth": 2.0,
            "image.interpolation": "nearest",
        }
    )


def comparison_label(comparison: str, names: Sequence[str] = DEFAULT_NAMES) -> str:
    """What readers see: "1_minus_2" becomes "fixed ∖ shifted".

    Raises
    ------
    ValueError
        If `comparison` is neither "1_minus_2" nor "2_minus_1".
    """
    first, second = (names[algorithm - 1] for algorithm in compared(comparison))
    return f"{first} ∖ {second}"


def compared(comparison: str) -> tuple[int, int]:
    """The algorithms of a comparison: (1, 2) for "1_minus_2".

    Raises
    ------
    ValueError
        If `comparison` is neither "1_minus_2" nor "2_minus_1".
    """
    pairs = {"1_minus_2": (1, 2), "2_minus_1": (2, 1)}
    if comparison not in pairs:
        raise ValueError(f"Got the comparison {comparison!r}; expected one of {list(pairs)}.")
    return pairs[comparison]


def legend_below(ax: Axes, *, columns: int, tick_lines: int = 1) -> None:
    """Under the x label, where it cannot hide data; constrained layout makes the room."""
    below = 3.3 + 1.2 * tick_lines  # font heights
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, 0), borderaxespad=below, ncols=columns)


def need_columns(frame: pd.DataFrame, columns: Sequence[str]) -> None:
    """Raise a ValueError that names what is missing and what is there."""
    missing = [c for c in columns if c not in frame]
    if missing:
        raise ValueError(f"The table lacks {missing}; it has {list(frame)}, expected {columns}.")
