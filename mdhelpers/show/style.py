"""The look of every figure: colours, fonts, and what readers call a comparison.

Algorithm 1 is blue and algorithm 2 vermilion in every figure of the book, placebos and nulls are
grey, planted truth is green: colours of Okabe and Ito, which colour-blind readers tell apart.

Text of others, kept plain where it is shown: class names, captions, names of algorithms.

Such text comes from names of folders and from files, so it may hold anything. Figures show it
through `style.label_text`, pages and Markdown through `escape_markdown`, tables of pandas and the
explorer by their own escaping. It is shown as it is and never becomes TeX, HTML, Markdown, MyST or
a second placeholder.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from collections.abc import Mapping, Sequence
from functools import cache
from html import escape
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.font_manager import findfont, fontManager, get_font

from mdhelpers.runs.run import Run

ALGORITHM_COLORS = {1: "#0072B2", 2: "#D55E00"}
NULL_COLOR = "#7F7F7F"
TRUTH_COLOR = "#009E73"
INK = "#222222"
CAPTION_COLOR = "#4C6A7D"
EXAMPLE_COLORS = ("#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#0072B2", "#D55E00")
DEFAULT_NAMES = ("algorithm 1", "algorithm 2")
MARKERS = {"1_minus_2": "o", "2_minus_1": "s"}
FONT = "DejaVu Sans"  # comes with matplotlib
SCRIPT_FONTS = (  # for what FONT lacks, where they are installed
    "Noto Sans CJK JP", "Noto Sans CJK SC", "Noto Sans JP", "Noto Sans SC", "Noto Sans KR",
    "PingFang SC", "Hiragino Sans", "Microsoft YaHei", "Malgun Gothic", "WenQuanYi Zen Hei",
    "Noto Sans Devanagari", "Noto Sans Bengali", "Noto Sans Thai", "Arial Unicode MS",
)  # fmt: skip
LONG_LABEL, LEGEND_WIDTH = 48, 76  # characters: longer ones stand one per row; the most
NO_GLYPH = "□"
LINE = 0.6  # inches
DPI = 110  # of a page; pictures have twice as many


_UNSEEN = {"agg", "cairo", "pdf", "pgf", "ps", "svg", "template"}  # what a notebook shows none of


def _show_figures() -> None:
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if hasattr(shell, "kernel"):
        if plt.get_backend().lower() in _UNSEEN:
            shell.run_line_magic("matplotlib", "inline")
        shell.run_line_magic("config", "InlineBackend.figure_formats = ['retina']")


def use_style() -> None:
    """Set matplotlib's defaults to the book's: readable at 400 pixels and on paper.

    Tables of pandas show dollar signs as they are. In a notebook, figures are shown even where
    MPLBACKEND, as many shells have it, asks for none.
    """
    pd.set_option("display.html.use_mathjax", False)
    _show_figures()
    plt.rcParams.update(
        {
            "figure.figsize": (6.4, 3.8),
            "figure.dpi": DPI,
            "savefig.dpi": 2 * DPI,
            "figure.constrained_layout.use": True,
            "figure.facecolor": "white",
            "font.family": [FONT, *installed_fonts()],
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


@cache
def installed_fonts() -> tuple[str, ...]:
    """Those of `SCRIPT_FONTS` that this machine has."""
    here = {font.name for font in fontManager.ttflist}
    return tuple(name for name in SCRIPT_FONTS if name in here)


@cache
def known_signs() -> frozenset[int]:
    """The characters that the book's fonts have a glyph for."""
    paths = [findfont(name) for name in (FONT, *installed_fonts())]
    return frozenset().union(*(get_font(path).get_charmap() for path in paths))


def label_text(text: str, width: int = 40) -> str:
    """Text of others as a figure can show it: names of classes and algorithms, captions.

    Dollar signs are no formulas, lines are shortened to ``width`` characters, and what the fonts
    have no glyph for becomes □. Line breaks are kept. matplotlib leaves labels that begin with an
    underscore out of legends: these get a space before it. A text that went through once stays.
    """
    lines = (shortened(one_line(line), width) for line in str(text).split("\n"))
    shown = "\n".join("".join(map(_drawable, line)) for line in lines)
    shown = f" {shown}" if shown.startswith("_") else shown
    if not plt.rcParams["text.parse_math"]:
        return shown
    return re.sub(r"(?<!\\)\$", r"\$", shown)


def label_texts(names: Sequence[str], width: int = 28) -> tuple[str, ...]:
    """`label_text` of each name."""
    return tuple(label_text(name, width) for name in names)


def _drawable(sign: str) -> str:
    if not sign.isprintable():
        return ""
    return sign if ord(sign) in known_signs() else NO_GLYPH


def comparison_label(comparison: str, names: Sequence[str] = DEFAULT_NAMES) -> str:
    """What readers see: "1_minus_2" becomes "fixed ∖ shifted".

    Raises
    ------
    ValueError
        If `comparison` is neither "1_minus_2" nor "2_minus_1".
    """
    first, second = (names[algorithm - 1] for algorithm in compared(comparison))
    return f"{first} ∖ {second}"


def use_word(use: str, comparison: str, names: Sequence[str] = DEFAULT_NAMES) -> str:
    """What readers see of a word of `mdhelpers.method.uses`: "only_1" becomes "only fixed".

    There 1 is the first-named algorithm of the comparison.
    """
    first, second = (names[algorithm - 1] for algorithm in compared(comparison))
    return {
        "only_1": f"only {first}",
        "more_1": f"{first} more",
        "only_2": f"only {second}",
        "more_2": f"{second} more",
        "alike": "both alike",
        "other_images": "through other images",
        "too_few": "too few to tell",
    }[use]


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


def histogram(
    ax: Axes, samples: Mapping[str, np.ndarray], label: str, *, bins=30, colors=None, center=np.mean
) -> None:
    """Overlaid shares of each sample, a dashed line at its centre; ``label`` may name both."""
    samples = {name: np.ravel(values) for name, values in samples.items()}
    samples = {name: values[np.isfinite(values)] for name, values in samples.items()}
    edges = np.histogram_bin_edges(np.concatenate(list(samples.values())), bins=bins)
    colors = colors or [*ALGORITHM_COLORS.values(), *EXAMPLE_COLORS]
    for color, (name, values) in zip(colors, samples.items(), strict=False):
        figures = {"mean": np.mean(values), "median": np.median(values)}
        text = label.format(name=label_text(name, 28), **figures)
        look = {"weights": np.full(len(values), 100 / len(values)), "color": color}
        ax.hist(values, edges, alpha=0.3, **look)
        ax.hist(values, edges, histtype="step", linewidth=1.5, **look)
        ax.axvline(center(values), color=color, linestyle="--", linewidth=1.5, label=text)
    ax.margins(x=0)
    legend_below(ax, columns=2)


def legend_below(ax: Axes, *, columns: int, tick_lines: int = 1) -> None:
    """Under the x label, where it cannot hide data; constrained layout makes the room."""
    below = 3.3 + 1.2 * tick_lines  # font heights
    handles, labels = ax.get_legend_handles_labels()
    widest = min(LEGEND_WIDTH, int(11 * panel_width(ax)) - 5)
    labels = [label_text(label, widest) for label in labels]
    columns = legend_columns(ax, labels, columns)
    place = {"loc": "upper center", "bbox_to_anchor": (0.5, 0), "borderaxespad": below}
    ax.legend(handles, labels, **place, ncols=columns)


def legend_columns(ax: Axes, labels: Sequence[str], columns: int) -> int:
    """As many columns as were asked for, or fewer where labels are too long for the panel."""
    longest = max(map(len, labels), default=0)
    room = 13 * panel_width(ax)  # characters
    if longest > LONG_LABEL:
        return 1
    return max(1, min(columns, int(room // (longest + 1))))


def panel_width(ax: Axes) -> float:
    """Inches that the axes and what is written around them have in their figure."""
    spec = ax.get_subplotspec()
    return ax.figure.get_figwidth() / (spec.get_gridspec().ncols if spec else 1)


def need_columns(frame: pd.DataFrame, columns: Sequence[str]) -> None:
    """Raise a ValueError that names what is missing and what is there."""
    missing = [c for c in columns if c not in frame]
    if missing:
        raise ValueError(f"The table lacks {missing}; it has {list(frame)}, expected {columns}.")


_ACTIVE = re.compile(r"[\\`*_{}\[\]<>|$&~^#:]")  # of Markdown, MyST, HTML, TeX and tables
_AT_THE_START = re.compile(r"^(?:[-+=]|\d+(?=[.)]))")  # of a line: a list, or a line under a title
_JOINERS = "\u200c\u200d"  # within words and emoji; other signs without a shape are left out


def one_line(text: Any) -> str:
    """The text on one line, without control characters and signs that turn the direction."""
    line = " ".join(str(text).split())
    return "".join(c for c in line if c in _JOINERS or unicodedata.category(c)[0] != "C")


def shortened(text: str, width: int) -> str:
    """At most ``width`` characters: the middle of a longer text becomes an ellipsis."""
    if len(text) <= width:
        return text
    end = (width - 1) // 2
    return f"{text[: width - 1 - end].rstrip()}…{text[len(text) - end :].lstrip()}"


def p_text(p: float) -> str:
    """A p-value, or one after a correction, as tables show it; a dash where there is none."""
    if np.isnan(p):
        return "–"
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def escape_markdown(text: Any) -> str:
    """Text that Markdown and MyST show as it is, on one line."""
    line = _ACTIVE.sub(r"\\\g<0>", one_line(text))
    start = _AT_THE_START.match(line)
    if start is None:
        return line
    if line[0].isdigit():
        return f"{start[0]}\\{line[start.end() :]}"
    return f"\\{line}"


def draw_if(data, draw, ax, **options):
    """``draw(ax, data)``, or an empty panel that says why there is nothing to draw."""
    return nothing_here(ax) if data is None else draw(ax, data, **options)


def nothing_here(ax: Axes, why: str = "this run has none of these") -> Axes:
    """An empty panel that says so; a figure with nothing else is no higher than a line."""
    if len(ax.figure.axes) == 1:
        ax.figure.set_figheight(LINE)
    ax.axis("off")
    ax.text(0.5, 0.5, why, ha="center", transform=ax.transAxes)
    return ax


def open_run(study: str, *, profile: str, runs_dir: str) -> Run:
    """The run of a page, in the book's style; what made the page is shown above its results."""
    use_style()
    run = Run(study, profile=profile, runs_dir=runs_dir)
    show_provenance(run)
    return run


def show_provenance(run: Run) -> None:
    """Display, in a notebook, what made the page, and the banner where its budget is small."""
    from IPython.display import display

    bundle = {"text/html": _html(run), "text/plain": f"{run.banner()}\n{run.provenance()}".strip()}
    display(bundle, raw=True)


def _html(run: Run) -> str:
    banner = run.banner()
    shown_banner = (
        '<div class="mdhelpers-banner" role="note" style="border-left: 4px solid #d97706; '
        f'padding: 0.4em 0.8em; margin-bottom: 0.4em"><strong>{escape(banner)}</strong></div>'
    )
    line = f'<div class="mdhelpers-provenance"><small>{escape(run.provenance())}</small></div>'
    return (shown_banner if banner else "") + line
