"""Names and captions that would like to be something else stay text: in figures, pages, widgets."""

import inspect
import json
import re
from types import SimpleNamespace

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import pytest
from browser import chromium_path, offline_page, page_faults, pages_of
from ipywidgets.embed import embed_data
from markdown_it import MarkdownIt
from matplotlib import rc_context
from matplotlib.cbook import is_math_text
from matplotlib.text import Text
from myst_parser.config.main import MdParserConfig
from myst_parser.parsers.mdit import create_md_parser

from mdhelpers.analyses.removal import join
from mdhelpers.book import build as book
from mdhelpers.book import pages
from mdhelpers.book import pages as book_tables
from mdhelpers.book.widgets import host
from mdhelpers.data.datasets import Split
from mdhelpers.method.comparison import Comparison, DirectionSet
from mdhelpers.show import (
    analyses,
    applications,
    comparison,
    datamodels,
    gallery,
    predictions,
    reweighting,
    style,
    subpopulations,
)
from mdhelpers.show import captions as show_captions
from mdhelpers.show import effects as show_effects
from mdhelpers.show import models as model_plots
from mdhelpers.show.explorer import explorer
from mdhelpers.show.style import escape_markdown, one_line
from tests.book.test_build import make_run

NAMES = {
    "formula": "$x_1$ and $y^2$",
    "broken formula": r"$\frac{1}{0$",
    "display": "$$",
    "latex": r"\(x\) \[y\] \begin{align}",
    "backslash": "\\",
    "underscore": "_hidden_name_",
    "stars": "**bold** *it* ~~no~~",
    "script": "<script>window.pwned=1</script>",
    "handler": "<img src=x onerror=window.pwned=1>",
    "end of script": "</SCRIPT ><img src=x onerror=window.pwned=1>",
    "comment": "<!--<script",
    "entity": "&lt;b&gt; & co",
    "quotes": "\"two\" 'one' ``back``",
    "jinja": "{{ 7*7 }}{% raw %}",
    "placeholder": "{{ results.run.study }}",
    "role": "{raw}`html <b>`",
    "directive": "::: {raw} html",
    "fence": "```{eval-rst}",
    "percent": "100% %s %(x)s {0}",
    "pipe": r"a|b \| c",
    "title": "# title",
    "item": "- item",
    "numbered": "1. item",
    "rule": "---",
    "link": "[x](javascript:window.pwned=1)",
    "autolink": "<javascript:window.pwned=1>",
    "right to left": "חתול قط",
    "turned": "a\u202egpj.exe",
    "emoji": "😀👩\u200d👩\u200d👧",
    "chinese": "中文",
    "long": "n" * 200,
    "long words": "very " * 40,
    "lines": "two\nlines\n\n# of it",
    "control": "bell\x07 \x1b[31m",
}
each_name = pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
# ---- Markdown -----------------------------------------------------------------------------------

PARSERS = {
    "commonmark": lambda: MarkdownIt("commonmark").enable("table"),
    "gfm": lambda: MarkdownIt("gfm-like", {"linkify": False}),
    "myst": lambda: myst(),
}
TEXT = {"text", "softbreak", "text_special"}
FRAMES = {
    "paragraph": ("{}", {"paragraph", "inline"}),
    "item": ("- **{}** is found", {"bullet_list", "list_item", "paragraph", "inline", "strong"}),
    "emphasis": ("seen under *{}* only", {"paragraph", "inline", "em"}),
    "cell": (
        "| a | {} |\n|---|---|\n| b | {} |",
        {"table", "thead", "tbody", "tr", "th", "td", "inline"},
    ),
}


def myst():
    config = MdParserConfig(enable_extensions={"amsmath", "colon_fence", "dollarmath", "tasklist"})
    from markdown_it.renderer import RendererHTML

    return create_md_parser(config, RendererHTML)


def flat(tokens):
    for token in tokens:
        yield token
        yield from flat(token.children or ())


@pytest.mark.parametrize("parser", PARSERS)
@pytest.mark.parametrize("frame", FRAMES)
@each_name
def test_in_markdown_it_is_text(name, frame, parser):
    source, allowed = FRAMES[frame]
    tokens = list(flat(PARSERS[parser]().parse(source.replace("{}", escape_markdown(name)))))
    kinds = {re.sub("_(open|close)$", "", token.type) for token in tokens}
    assert kinds - TEXT <= allowed
    text = "".join(token.content for token in tokens if token.type in TEXT)
    assert one_line(name) in text


@each_name
def test_in_a_page_and_its_tables_it_is_text(name):
    results = {"run": {"study": "tiny"}, "a": {"name": name, "n": 3}}
    values, page = {"results": results}, "p.md"
    text = pages.expand("{{ results.a.name }} has {{ results.a.n }}", values, page=page)
    assert text == f"{escape_markdown(name)} has 3"
    rows = {"recorded": {"rows": [{"what": name, "value": 0.5}]}}
    table = "{{ table recorded.rows | what; value:.1f }}"
    shown = pages.expand(table, rows | values, page=page)
    assert shown == book_tables.table(rows["recorded"]["rows"], ["what", "value:.1f"], page=page)
    assert escape_markdown(name) in shown


def test_plain_words_are_left_alone():
    for text in ("plain", "high noise", "scratch-18, 3.5 (of 4)", "ring"):
        assert escape_markdown(text) == text


@each_name
def test_tables_of_pandas_escape_it(name):
    with rc_context():
        style.use_style()
    frame = pd.DataFrame({"class": [name]}, index=pd.Index([name], name="class"))
    html = frame._repr_html_()
    assert set(re.findall(r"</?([a-zA-Z]+)", html)) <= {
        "div", "style", "table", "thead", "tbody", "tr", "th", "td",
    }  # fmt: skip
    assert "mathjax_ignore" in html


@each_name
def test_a_views_data_cannot_end_their_script(name):
    view = {"names": [name], "n": 3, name: {"url": "a<b"}}
    body = host("play", view).partition('<script type="application/json">')[2]
    data = body.removesuffix("</script>")
    assert not set(data) & set("<>&")
    assert json.loads(data) == view


# ---- figures ------------------------------------------------------------------------------------

PAIRS = {
    "formulas": (NAMES["formula"], NAMES["broken formula"]),
    "long": (NAMES["long"], NAMES["long words"]),
    "signs": (NAMES["emoji"] + NAMES["chinese"] + NAMES["turned"], NAMES["right to left"]),
    "hidden": (NAMES["underscore"], "__" + NAMES["backslash"]),
    "lines": (NAMES["lines"] + NAMES["control"], NAMES["percent"]),
}
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)
BOTH = ("1_minus_2", "2_minus_1")


def frame(**columns):
    return pd.DataFrame(columns)


def per_name(names):
    return {name: RNG.uniform(0, 1, (5, 6)) for name in names}


def directions(**columns):
    return frame(comparison=np.repeat(BOTH, 2), direction=[1, 2, 1, 2], **columns)


def gaps():
    columns = {"naive_gap": [0.3] * 4, "gap": [0.2] * 4, "low": [0.1] * 4, "high": [0.3] * 4}
    return directions(**columns)


def uses():
    ends = {"times": [2.0] * 4, "times_low": [1.5] * 4, "times_high": [np.inf, 3, 3, 3]}
    return directions(end="top", use=["only_1", "more_2", "alike", "too_few"], **ends)


def gap_splits():
    parts = [gaps().assign(pair=p, split=s) for p in predictions.PAIR_STYLES for s in (0, 1)]
    return pd.concat(parts)


def grades(names):
    rows = [(c, 1, end, n, 0.8) for c in BOTH for end in ("top", "bottom") for n in names]
    columns = ["comparison", "direction", "end", "feature", "auc_within_class"]
    return pd.DataFrame(rows, columns=columns)


def effects():
    values = {"effect": [1.0, 2.0] * 2, "low": [0.0] * 4, "high": [3.0] * 4}
    return frame(algorithm=[1, 1, 2, 2], intensity=[3, 5, 3, 5], **values)


def verdicts(names):
    about = {"kind": "feature", "transformation": names[0], "source": "study", "unit": "px"}
    parts = [effects().assign(hypothesis=n, class_name=n, **about) for n in names]
    found = pd.concat(parts)
    return SimpleNamespace(effects=found, verdicts=found.drop_duplicates("hypothesis"))


def model_counts(**columns):
    numbers = {"low": 0.1, "median": 0.2, "high": 0.3, "cosine": 0.5, "against": "others"}
    return frame(n_models=[64, 128] * 2, **columns).assign(**numbers)


def components():
    numbers = {"found_with": [64, 64, 128, 128], "measured_with": [64] * 4}
    return frame(algorithm=[1] * 4, component=[1, 2, 1, 2], variance=[0.2, 0.1] * 2, **numbers)


def variances():
    numbers = {"component": [1, 2] * 2, "variance_1": [0.2] * 4, "variance_2": [0.1] * 4}
    table = frame(comparison=np.repeat(BOTH, 2), **numbers)
    return pd.concat([table.assign(on=on) for on in ("all", "others")])


def further(names):
    """What stage 04's further analyses find."""
    similar = pd.DataFrame(SIMILAR, list(names), list(names))
    return SimpleNamespace(
        curves=variances(),
        named=lambda _: SimpleNamespace(matrix=similar, corrected=similar),
        counts=SimpleNamespace(
            cosines=model_counts(algorithm=[1, 1, 2, 2]),
            directions=model_counts(comparison=np.repeat(BOTH, 2), direction=[0] * 4),
            components=pd.concat([components().assign(algorithm=a) for a in (1, 2)]),
        ),
    )


def compared():
    sets = [DirectionSet(name, SIMILAR, SIMILAR, SIMILAR, np.array([1, 2])) for name in BOTH]
    return Comparison(*sets, cosines=np.zeros(2), n_zero=np.zeros(2))


def fits():
    margins = RNG.normal(size=(2, 6, 9))
    lds = [SimpleNamespace(per_example=RNG.random(9)) for _ in BOTH]
    return SimpleNamespace(true=margins, predicted=margins, lds=lds)


def pairs_of_models():
    kinds = list(predictions.PAIR_STYLES)
    numbers = {"inconsistency": 0.2, "expected": 0.3, "gain": 0.1, "mean": 0.2, "low": 0.1,
               "high": 0.3, "theta_mean": 0.1, "theta_low": -0.1, "theta_high": 0.2,
               "left": 0.0, "right": 0.5, "share": 0.4}  # fmt: skip
    table = frame(pair=kinds, masks="other", measure="inconsistency", outcome="both wrong", label=0)
    return table.assign(**numbers)


def predicted():
    """What stage 09 gives."""
    tables = SimpleNamespace(
        pairs=pairs_of_models().assign(conversion=0.5),
        angles=pairs_of_models(),
        scores=frame(margin=RNG.normal(size=12)),
    )
    right = RNG.random((2, 2, 9)) > 0.5
    return SimpleNamespace(tables=tables, confidence=RNG.uniform(0.3, 1, (2, 2, 9)), right=right)


def data_of(names):
    split = Split(IMAGES, np.arange(12) % 2, pd.DataFrame(index=range(12)))
    return SimpleNamespace(train=split, test=split, class_names=names)


def models_of(names):
    return SimpleNamespace(names=names, dataset=data_of(names))


def applied():
    """What stage 08 gives."""
    algorithm = np.repeat([1, 2], 12)
    places = {"x": RNG.random(24), "y": RNG.random(24), "cluster": np.arange(24) % 3}
    pairs = {"test": np.arange(24) % 12, "train": np.arange(24)[::-1] % 12}
    return SimpleNamespace(
        algorithm=1,
        clusters=frame(algorithm=algorithm, **places),
        leakage=frame(algorithm=algorithm, copy=[True] * 24, **pairs),
        removals=join([]),
        datamodels=SimpleNamespace(weights=RNG.random((12, 12))),
    )


def selections(names):
    ends = {f"right{which}{end}": 0.5 for which in ("", "_all") for end in ("", "_low", "_high")}
    ways = [frame(target=names, way=way, size=10) for way in applications.WAYS]
    return pd.concat(ways).assign(**ends)


def scores(names):
    rows = [(n, s, 0.8, 0.6) for n in names for s in predictions.SCORE_STYLES]
    return pd.DataFrame(rows, columns=["feature", "score", "auc_within_class", "chance"])


def members():
    ends = pd.concat([directions(end=[end] * 4) for end in ("top", "bottom")])
    return ends.assign(chance=0.6, margin=0.7)


def tilts():
    rows = pd.concat([directions(algorithm=[a] * 4) for a in (1, 2)])
    predicted, measured = RNG.normal(size=(2, 8))
    return rows.assign(size=1.0, predicted_size=0.9, predicted=predicted, measured=measured)


def quality():
    curves = frame(n_models=[32, 64])
    for score in ("lds", "cosine"):
        ends = {score: [0.3, 0.4], f"{score}_low": [0.2] * 2, f"{score}_high": [0.5] * 2}
        curves = curves.assign(**ends)
    return SimpleNamespace(
        curves=curves,
        figures={"ceiling_1": 0.7, "ceiling_2": 0.8},
        curve=lambda _: curves,
        law=lambda _: None,
        half_cosines=per_name,
    )


def captioned(names, **more):
    """Two captions, of which one is stable."""
    numbers = {"auc": [0.8, 0.7], "auc_low": [0.7, 0.6], "auc_high": [0.9, 0.8], "z": [5.0, 2.0]}
    return frame(caption=list(names), stability=[1.0, 0.2], **numbers, **more)


A, C, P = analyses, comparison, predictions
SIMILAR = np.array([[0.8, 0.3], [0.3, 0.7]])
DRAW = {
    model_plots.accuracy_histogram: lambda f, ax, n: f(ax, per_name(n)),
    model_plots.margin_histogram: lambda f, ax, n: f(ax, per_name(n)),
    model_plots.loss_curves: lambda f, ax, n: f(ax, per_name(n)),
    datamodels.lds_histogram: lambda f, ax, n: f(ax, per_name(n)),
    datamodels.half_cosines: lambda f, ax, n: f(ax, quality(), names=n),
    C.cosine_histogram: lambda f, ax, n: f(ax, per_name(n)),
    show_captions.caption_bars: lambda f, ax, n: f(ax, captioned(n)),
    show_effects.effect_curves: lambda f, ax, n: f(ax, effects(), names=n, placebo=effects()),
    A.similarity_heatmap: lambda f, ax, n: f(ax, pd.DataFrame(SIMILAR, list(n), list(n))),
    A.cosines_by_models: lambda f, ax, n: f(ax, model_counts(algorithm=[1, 1, 2, 2]), names=n),
    A.directions_by_models: lambda f, ax, n: f(
        ax, model_counts(comparison=np.repeat(BOTH, 2), direction=[0] * 4), names=n
    ),
    A.components_by_models: lambda f, ax, n: f(ax, components(), 1, names=n),
    C.explained_variance_scatter: lambda f, ax, n: f(ax, compared(), names=n),
    C.gap_curves: lambda f, ax, n: f(ax, gap_splits(), names=n),
    C.gap_bars: lambda f, ax, n: f(ax, gaps(), names=n),
    C.use_intervals: lambda f, ax, n: f(ax, uses(), names=n),
    subpopulations.auc_heatmap: lambda f, ax, n: f(ax, grades(n), names=n),
    P.error_inconsistencies: lambda f, ax, n: f(ax, pairs_of_models(), pairs_of_models(), names=n),
    P.ensemble_scatter: lambda f, ax, n: f(ax, pairs_of_models(), names=n),
    P.confidence_confidence: lambda f, ax, n: f(
        ax, *RNG.uniform(0.3, 1, (2, 9)), *(RNG.random((2, 9)) > 0.5), names=n
    ),
    P.angle_histograms: lambda f, ax, n: f(ax, pairs_of_models(), outcome="both wrong", names=n),
    P.class_angles: lambda f, ax, n: f(ax, pairs_of_models(), n, names=n),
    P.feature_grades: lambda f, ax, n: f(ax, scores(n)),
    P.member_grades: lambda f, ax, n: f(ax, members(), names=n),
    reweighting.tilt_scatter: lambda f, ax, n: f(ax, tilts(), names=n),
    reweighting.tilt_sizes: lambda f, ax, n: f(ax, tilts(), names=n),
    applications.image_map: lambda f, ax, n: f(
        ax, RNG.random((12, 2)), IMAGES, np.arange(12) % 2, names=n
    ),
    gallery.show_images: lambda f, ax, n: f(ax, IMAGES[:2], titles=n),
    gallery.image_rows: lambda f, ax, n: f(ax, dict(zip(n, (IMAGES, IMAGES[:3]), strict=True))),
    gallery.datamodel_neighbours: lambda f, ax, n: f(
        ax, IMAGES[0], IMAGES, dict(zip(n, RNG.random((2, 12)), strict=True))
    ),
}
FIGURES = {  # that are made, not drawn on axes
    A.similarity: lambda f, n: f(further(n), names=n),
    A.variance_curves: lambda f, n: f(further(n), names=n),
    A.model_counts: lambda f, n: f(further(n), names=n),
    A.components: lambda f, n: f(further(n), names=n),
    datamodels.predicted: lambda f, n: f(fits(), names=n),
    datamodels.deviations: lambda f, n: f(fits(), names=n),
    datamodels.learning_curves: lambda f, n: f(quality(), names=n),
    subpopulations.mosaic: lambda f, n: f(dict.fromkeys(n, IMAGES), height=3),
    show_captions.captioned_images: lambda f, _: f(None, frame()),
    show_captions.caption_panels: lambda f, n: f(captioned(n, reference=["all", "class"])),
    show_effects.transformation_images: lambda f, n: f(
        [{"name": name, "transformation": "tag", "intensities": [3]} for name in n],
        data_of(n).test,
        seed=0,
    ),
    show_effects.effect_panels: lambda f, n: f(verdicts(n), names=n),
    show_effects.effect_heatmap: lambda f, n: f(verdicts(n), names=n),
    P.ensemble_panels: lambda f, n: f(predicted(), names=n),
    P.confidence_panels: lambda f, n: f(predicted(), names=n),
    P.angle_panels: lambda f, n: f(predicted(), names=n),
    P.seen_images: lambda f, n: f(predicted(), data_of(n).test, n),
    reweighting.tilt_panels: lambda f, n: f(
        SimpleNamespace(changes=pd.concat([tilts(), tilts(), tilts()])), names=n
    ),
    applications.removal_panels: lambda f, _: f(join([])),
    applications.flip_panels: lambda f, _: f(join([])),
    applications.image_maps: lambda f, n: f(applied(), models_of(n)),
    applications.leaked_images: lambda f, n: f(applied(), models_of(n)),
    applications.brittle_neighbours: lambda f, n: f(applied(), models_of(n), top_k=4),
    applications.selection_panels: lambda f, n: f(selections(n)),
}
WITHOUT_NAMES = {
    datamodels.predicted_against_true,
    applications.removal_scatter,
    applications.flip_dumbbells,
    applications.selection_curves,
    show_effects.hypothesis_curves,  # within effect_panels
}


def test_every_figure_is_drawn_here():
    modules = (datamodels, A, C, P, model_plots, reweighting, applications, gallery)
    modules += (show_captions, show_effects, subpopulations)
    public = {
        function: inspect.signature(function)
        for module in modules
        for name, function in inspect.getmembers(module, inspect.isfunction)
        if function.__module__ == module.__name__ and not name.startswith("_")
    }
    on_axes = {f for f, given in public.items() if next(iter(given.parameters), "") == "ax"}
    assert on_axes - WITHOUT_NAMES == set(DRAW)
    figures = {f for f, given in public.items() if given.return_annotation == "Figure"}
    assert figures == set(FIGURES)


def texts_of(figure):
    found = [t for t in figure.findobj(Text) if t.get_visible() and t.get_text()]
    return [t for t in found if not t.get_text().startswith(r"$\mathdefault")]  # of a log axis


PANELS = {
    model_plots.accuracy_histogram: (1, (6.4, 3.2)),
    model_plots.loss_curves: (1, (6.4, 3.2)),
    show_captions.caption_bars: (1, (7, 2.4)),
    A.cosines_by_models: (2, (9, 5)),
    A.directions_by_models: (2, (9, 5)),
    P.ensemble_scatter: (2, (9, 4.4)),
    P.confidence_confidence: (3, (9, 4.8)),
    P.angle_histograms: (3, (9, 4.6)),
    P.feature_grades: (1, (7.5, 3.8)),
    reweighting.tilt_scatter: (2, (9, 4.8)),
    gallery.datamodel_neighbours: (1, (9, 3)),
}  # and sizes, as in the notebooks; others have a figure of their own


@pytest.mark.parametrize("kind", PAIRS)
@pytest.mark.parametrize("function", [*DRAW, *FIGURES], ids=lambda function: function.__name__)
def test_in_a_figure_it_is_text(function, kind):
    with rc_context():
        style.use_style()
        if function in FIGURES:
            figure = FIGURES[function](function, PAIRS[kind])
        else:
            n, size = PANELS.get(function, (1, (7, 4.5)))
            figure, axes = plt.subplots(1, n, figsize=size, squeeze=False)
            for ax in axes.flat:
                DRAW[function](function, ax, PAIRS[kind])
        figure.canvas.draw()  # a missing glyph or too little room is a warning, so a failure
        assert len(figure.axes) * figure.axes[-1].get_position().width > 0.1
        for text in texts_of(figure):
            lines = text.get_text().split("\n")
            assert not is_math_text(text.get_text())
            assert max(map(len, lines)) <= style.LEGEND_WIDTH + 20
            assert not any(line.startswith("_") for line in lines)
        plt.close(figure)


@each_name
def test_labels_are_drawable_and_stay_as_they_are(name):
    label = style.label_text(name)
    assert style.label_text(label) == label
    assert not is_math_text(label)
    assert max(map(len, label.split("\n"))) <= 40 + label.count("\\$") + 1
    assert all(ord(sign) in style.known_signs() for sign in label if sign != "\n")


def test_a_label_says_what_it_can():
    assert style.label_text("plain") == "plain"
    assert style.label_text("$5 a_b") == r"\$5 a_b"
    assert style.label_text("n" * 30 + "the end", 21) == "nnnnnnnnnn…nnnthe end"
    with rc_context({"text.parse_math": False}):
        assert style.label_text("$5") == "$5"


def test_an_algorithm_with_an_underscore_stands_in_the_legend():
    with rc_context():
        style.use_style()
        ax = plt.figure().subplots()
        show_effects.effect_curves(ax, effects(), names=("_one", "two"))
        assert [t.get_text().strip() for t in ax.get_legend().get_texts()] == ["_one", "two"]
        plt.close("all")


# ---- the book, in a browser ---------------------------------------------------------------------

HOSTILE = [name for key, name in NAMES.items() if key not in ("lines", "control", "turned")]
PROSE = " ".join(NAMES[key] for key in ("handler", "formula", "role", "pipe", "placeholder"))
PAGE = "06_clip_captioning"
SMART = str.maketrans({"“": '"', "”": '"', "‘": "'", "’": "'", "–": "--", "—": "---"})  # of Sphinx


def hostile_explorer():
    """The view of a comparison whose every text is hostile, as a notebook saves it."""
    sets = {
        name: SimpleNamespace(
            projections=RNG.normal(size=(12, 2)),
            explained_variance=RNG.uniform(0.01, 0.05, (2, 2)),
            component=np.array([1, 2]),
        )
        for name in BOTH
    }
    models = [SimpleNamespace(weights=RNG.normal(size=(12, 12))) for _ in range(2)]
    split = SimpleNamespace(images=IMAGES, labels=np.arange(12) % len(HOSTILE))
    rows = [(c, d, "top", name, 0.5) for c in BOTH for d in (1, 2) for name in HOSTILE]
    columns = ["comparison", "direction", "end", "caption", "score"]
    truth = pd.DataFrame({name: np.arange(12) % 2 == 0 for name in HOSTILE[:6]})
    made = {"captions": pd.DataFrame(rows, columns=columns), "truth": truth, "top_k": 6}
    names = (NAMES["end of script"], NAMES["handler"])
    return explorer(sets, *models, split, split, HOSTILE, names=names, **made)


def hostile_notebook(path):
    """An executed notebook with the outputs that ours have, full of hostile text."""
    widget = hostile_explorer()
    state = embed_data(views=[widget], drop_defaults=False)
    with rc_context():  # else tests that come later have the book's style
        style.use_style()
    frame = pd.DataFrame({"caption": HOSTILE}, index=pd.Index(HOSTILE, name="class"))
    texts = [escape_markdown(name) for name in HOSTILE]
    said = "\n".join(f"- *{a}* and **{b}**" for a, b in zip(texts, texts, strict=True))
    outputs = [
        nbformat.v4.new_output("stream", name="stdout", text="\n".join(HOSTILE)),
        nbformat.v4.new_output("display_data", {"text/html": frame._repr_html_()}),
        nbformat.v4.new_output("display_data", {"text/markdown": said}),
        nbformat.v4.new_output(
            "display_data", {"application/vnd.jupyter.widget-view+json": state["view_specs"][0]}
        ),
    ]
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell("shown", execution_count=9, outputs=outputs))
    states = {"application/vnd.jupyter.widget-state+json": state["manager_state"]}
    notebook.metadata["widgets"] = states
    nbformat.write(notebook, path)


def with_values(block, old, new):
    """The block with one value instead of another, wherever it is."""
    if isinstance(block, dict):
        return {key: with_values(value, old, new) for key, value in block.items()}
    return new if block == old else block


def hostile_run(runs):
    """A run whose every text in the results is hostile, and one of its notebooks."""
    folder = make_run(runs, "augmentation-smoke", profile="smoke")
    results = json.loads((folder / "results.json").read_text())
    for stage, block in results.items():
        if stage != "run":
            results[stage] = with_values(block, "text", PROSE)
    (folder / "results.json").write_text(json.dumps(results))
    hostile_notebook(folder / f"notebooks/{PAGE}.ipynb")


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.skipif(chromium_path() is None, reason="no chromium on the PATH")
def test_nothing_comes_alive_in_the_built_book(tmp_path):
    hostile_run(tmp_path / "runs")
    out = tmp_path / "_build/html"
    book.build("augmentation", profile="smoke", runs_dir=tmp_path / "runs", out=out)
    faults, dialogs = [], []
    with offline_page(400, faults) as page:
        page.on("dialog", lambda dialog: dialogs.append(dialog.message) or dialog.dismiss())
        for path in pages_of(out):
            faults += page_faults(page, path, 400)
            assert page.evaluate("() => window.pwned") is None, path
            assert page.locator("article [onerror], article a[href^=javascript]").count() == 0
            if path.stem == "index":
                assert one_line(PROSE) in page.inner_text("article")
            if path.stem == PAGE:
                check_hostile_page(page)
    assert faults == []
    assert dialogs == []


def check_hostile_page(page):
    """Every name stands on the page as it is, in table, prose, print and view."""
    assert page.locator(".cell_output mjx-container").count() == 0
    cells = page.locator(".cell_output td").all_text_contents()
    short = [name for name in HOSTILE if len(name) < 50]  # pandas shortens the others
    assert [cell for cell in cells if cell in HOSTILE][
        -len(short) :
    ] == short  # after its first rows
    prose = page.locator(".cell_output li em").all_text_contents()
    assert set(map(one_line, HOSTILE)) <= {text.translate(SMART) for text in prose}
    captions = page.locator(".mdx-evidence li").all_text_contents()
    assert len(captions) == 5
    classes = page.locator(".mdx-class").all_text_contents()
    assert {name.replace("\u2060", "") for name in classes} <= set(HOSTILE)
    page.locator(".mdx-reveal").check()
    assert page.evaluate("() => window.pwned") is None
