"""Page 11's figures and tables show what stage 11 found, and say where it found nothing."""

from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgba

from mdhelpers.analyses.strongest_patch import StrongestPatch
from mdhelpers.data.scenes import crossed_factors, make_scenes
from mdhelpers.show import probes as show
from mdhelpers.show.style import ALGORITHM_COLORS, NULL_COLOR, TRUTH_COLOR, use_style
from mdhelpers.stages.probes import GAP, TABLES, StudyProbes, pair_table, table_of

NAMES = ("plain", "augmented")
HOSTILE = (r"$\frac{1}{0$", "_hidden")


def patch_effects() -> pd.DataFrame:
    """Patches move by 20, shuffled ones by 5, the ring by 10; of side 2 with the sign turned."""
    rows = []
    for side, name in ((1, "boat"), (2, "fish")):
        sign = 1 if side == 1 else -1
        for where, kind, feature, x in (
            ("anywhere", "patch", "", 20),
            ("anywhere", "shuffled", "", 5),
            ("", "feature", "ring", 10),
        ):
            about = side, name, where, -1, -1, kind, feature, 9.0 if feature else np.nan
            for a, effect in ((1, 3.0), (2, 3.0 - sign * x), (0, sign * x)):
                rows.append((*about, a, effect, effect - 1, effect + 2, 0.01))
    return table_of(rows, "patch_effects")


def sweeps() -> pd.DataFrame:
    rows = [
        (factor, place, level, name, a, 50.0 + a * place, 40.0, 60.0)
        for factor, levels in (("feature_ring", "no yes"), ("tag_corner", "none left right"))
        for place, level in enumerate(levels.split())
        for name in ("", "boat")
        for a in (1, 2)
    ]
    return table_of(rows, "sweeps")


@pytest.fixture(scope="module")
def found() -> StudyProbes:
    crossed = crossed_factors(600, features=["ring", "tag"], seed=0)
    noise = np.random.default_rng(0).normal(0, 5, (3, 600))
    both = crossed["feature_ring"] & (crossed["class_name"] == "fish")
    y = {f"confidence_{a}": 50 + 30 * both * (a != 1) + noise[a] for a in (0, 1, 2)}
    crossed = crossed.assign(**y)
    steps = [(side, "boat", "anywhere", k, 2.0 * k) for side in (1, 2) for k in range(20)]
    swings = [("y", "", "0.4", "0.5", *range(9), 0.0, 0.001)]
    swings += [("tag_corner", "boat", "none", "left", *range(10, 19), 0.0, 0.04)]
    accuracies = [
        (name, a, x + a, x, x + 5, 0.5)
        for name, x in (("original", 90.0), (GAP, 10.0))
        for a in (1, 2, 0)
    ]
    return StudyProbes(
        {(1, "anywhere"): StrongestPatch(np.full((4, 4, 3), 9, np.uint8), None, np.zeros(3))},
        patch_effects(),
        table_of(steps, "patch_steps"),
        sweeps(),
        table_of(swings, "swings"),
        crossed,
        pair_table(crossed),
        table_of(accuracies, "backgrounds"),
    )


@pytest.fixture(scope="module")
def nothing() -> StudyProbes:
    none = {name: table_of([], name) for name in TABLES}
    return StudyProbes({}, **none, crossed=pd.DataFrame())


@pytest.fixture
def models():
    return SimpleNamespace(dataset=make_scenes(n_train=12, n_test=30, size=16, seed=0))


@pytest.fixture(autouse=True)
def _style():
    with plt.rc_context():
        use_style()
        yield
        plt.close("all")


def test_bars_are_of_the_difference_towards_the_side_that_a_patch_is_for(found):
    fig = show.patch_panels(found, names=NAMES)
    for side, ax in enumerate(fig.axes, 1):
        assert [bar.get_width() for bar in ax.patches] == [20, 5, 10]
        colors = [to_rgba(color) for color in (ALGORITHM_COLORS[side], NULL_COLOR, TRUTH_COLOR)]
        assert [bar.get_facecolor() for bar in ax.patches] == colors
        words = [label.get_text() for label in ax.get_yticklabels()]
        assert words == ["patch, anywhere", "its pixels shuffled, anywhere", "ring (9)"]
    assert fig.axes[1].get_xlabel() == "effect on augmented − plain (points)"
    (lines,) = fig.axes[1].collections
    ends = [segment[:, 0].tolist() for segment in lines.get_segments()]
    assert ends[0] == [18, 21]  # of -20 with (-21, -18)


def test_the_table_of_patches_has_a_column_an_algorithm(found):
    table = show.patch_effects(found, NAMES)
    assert list(table) == ["plain", "augmented", "plain − augmented"]
    ring = table.loc[("augmented", "fish", "ring (9)")]
    assert ring["plain − augmented"] == "-10.0 [-11.0, -8.0]"
    assert len(table) == 6


def test_progress_is_averaged(found, ax):
    show.patch_progress(ax, found.patch_steps, names=NAMES)
    assert ax.lines[0].get_ydata()[-1] == np.mean(2.0 * np.arange(10, 20))
    assert ax.lines[1].get_label() == "augmented, anywhere"


def test_patches_are_shown_large_and_in_images_they_are_judged_on(found, models):
    (row,) = show.patch_rows(found, models, names=NAMES, seed=0, n=3).values()
    assert (row[0] == 9).all()
    assert row.shape == (4, 16, 16, 3)
    assert all((image == 9).all(-1).sum() == 16 for image in row[1:])
    assert show.patch_images(found, models, names=NAMES, seed=0).axes[0].images


def test_each_factor_has_a_panel_with_both_algorithms(found):
    fig = show.sweep_panels(found, names=NAMES, class_name="boat")
    shown = [ax for ax in fig.axes if ax.axison]
    assert [ax.get_title(loc="left") for ax in shown] == ["ring", "tag corner"]
    for ax, places in zip(shown, (2, 3), strict=True):
        heights = [line.get_ydata().tolist() for line in ax.lines]
        assert heights == [[50.0 + a * k for k in range(places)] for a in (1, 2)]
    (legend,) = fig.legends
    assert [text.get_text() for text in legend.get_texts()] == list(NAMES)


def test_swings_begin_with_the_largest_difference(found):
    table = show.swings(found, NAMES)
    assert table.index.tolist() == [("tag corner", "boat"), ("y", "all")]
    assert table["difference"].iloc[0] == "+16.0 [+17.0, +18.0]"
    assert table["plain"].iloc[1] == "+0.0 [+1.0, +2.0]"


def test_pairs_that_are_sure_are_listed(found):
    table = show.pairs(found, NAMES)
    assert table.index.tolist() == [
        ("augmented", "class × ring"),
        ("plain − augmented", "class × ring"),
    ]
    share = found.pairs.query("algorithm == 2")["share"].iloc[0]
    assert table["share of the variance (%)"].iloc[0] == pytest.approx(100 * share, abs=0.05)


def test_the_pair_s_table_has_the_means_of_each_combination(found):
    fig = show.pair_panels(found, names=NAMES)
    crossed = found.crossed
    chosen = (crossed["class_name"] == "fish") & crossed["feature_ring"]
    wanted = crossed["confidence_2"][chosen].mean()
    assert fig.axes[1].images[0].get_array()[1, 1] == pytest.approx(wanted)
    words = [label.get_text() for label in fig.axes[1].get_xticklabels()]
    assert words == ["no", "yes"]
    assert f"{wanted:.0f}" in [text.get_text() for text in fig.axes[1].texts]


def test_numbers_are_shown_in_thirds(found):
    pairs = found.pairs.assign(factor_1="contrast", factor_2="tag_corner")
    given = StudyProbes(**{**vars(found), "pairs": pairs})
    words = [t.get_text() for t in show.pair_panels(given, names=NAMES).axes[0].get_yticklabels()]
    assert words == ["low", "middle", "high"]


def test_accuracies_and_their_gap(found, models, ax):
    table = show.backgrounds(found, NAMES)
    assert table.loc["original", "plain"] == "91.0 [90.0, 95.0]"
    assert table.loc["original", "plain − augmented"] == "+90.0 [+90.0, +95.0]"
    assert table.loc[GAP, "augmented"] == "+12.0 [+10.0, +15.0]"
    show.background_bars(ax, found.backgrounds, names=NAMES)
    assert [bar.get_height() for bar in ax.patches] == [91, 11, 92, 12]
    assert show.background_images(models, seed=0, n=3).axes[0].images


def test_what_is_not_there_is_said(nothing, models, ax):
    assert show.patch_effects(nothing, NAMES) == show.NO_NETWORKS
    assert show.swings(nothing, NAMES) == show.pairs(nothing, NAMES) == show.NO_FACTORS
    assert show.backgrounds(nothing, NAMES) == show.NO_MASKS
    without = make_scenes(n_train=12, n_test=30, size=16, seed=0)
    test = SimpleNamespace(foreground=None, images=without.test.images)
    masked = SimpleNamespace(dataset=SimpleNamespace(test=test))
    for fig in (
        show.patch_images(nothing, models, names=NAMES, seed=0),
        show.patch_panels(nothing, names=NAMES),
        show.sweep_panels(nothing, names=NAMES),
        show.pair_panels(nothing, names=NAMES),
        show.background_images(masked, seed=0),
    ):
        assert not any(each.axison for each in fig.axes)
    show.patch_progress(ax, nothing.patch_steps)
    show.background_bars(ax, nothing.backgrounds)
    assert not ax.axison


def test_names_of_others_stay_text(found, models, ax):
    for fig in (
        show.patch_images(found, models, names=HOSTILE, seed=0),
        show.patch_panels(found, names=HOSTILE),
        show.sweep_panels(found, names=HOSTILE),
        show.pair_panels(found, names=HOSTILE),
    ):
        fig.canvas.draw()
    show.background_bars(ax, found.backgrounds, names=HOSTILE)
    assert len(ax.get_legend().get_texts()) == 2
