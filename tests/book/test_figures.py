"""Figures of prose pages: what is drawn is what was recorded."""

import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest

from mdhelpers.book import figures
from mdhelpers.book.figures import FIGURES, draw_methods, drawn, power, similarity
from mdhelpers.data.datasets import DatasetSpec
from mdhelpers.data.sources import load_dataset
from mdhelpers.show.style import use_style

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _in_the_book_s_style():
    with plt.rc_context():
        use_style()
        yield
    plt.close("all")


def row(method: str, models: int, lds: float) -> dict:
    found = {"method": method, "models": models}
    for a in (1, 2):
        found |= {f"lds_{a}": lds, f"lds_{a}_low": lds - 0.02, f"lds_{a}_high": lds + 0.01}
    return found


BUDGETS = {
    "rows": [row(m, n, v) for n, v in ((400, 0.5), (100, 0.2)) for m in ("lasso", "ridge")],
    "settings": {"names": ["plain", "other"], "ceilings": {"ceiling_1": 0.8}},
}


def test_points_and_intervals_are_those_of_the_rows():
    ax = draw_methods(plt.figure().gca(), BUDGETS["rows"], "lds_1", ceiling=0.8)
    lines = ax.get_legend_handles_labels()[1]
    assert set(lines) == {"lasso", "ridge", "noise ceiling"}
    points, _, (bars,) = ax.containers[0].lines
    np.testing.assert_allclose(points.get_ydata(), [0.2, 0.5])
    np.testing.assert_allclose(bars.get_segments()[0][:, 1], [0.18, 0.21])
    np.testing.assert_allclose(ax.lines[-1].get_ydata(), 0.8)


def test_power_shows_shares_of_the_drawings_in_which_words_are_right():
    found = [
        {"models": models, "feature": feature, "truth": truth, "drawings": drawings, "right": hits}
        for models, feature, truth, drawings, hits in (
            (256, "ring", "differs", 10, 4),
            (512, "ring", "differs", 10, 10),
            (256, "tag", "differs", 8, 6),
            (256, "tag", "alike", 2, 1),
        )
    ]
    figure, told = power({"rows": found, "default": 1024})
    ring, tag, alike = figure.axes[0].containers
    np.testing.assert_allclose(ring.lines[0].get_ydata(), [0.4, 1.0])
    np.testing.assert_allclose(tag.lines[0].get_ydata(), [0.75])
    np.testing.assert_allclose(alike.lines[0].get_ydata(), [0.5])
    (bars,) = ring.lines[2]
    low, high = bars.get_segments()[0][:, 1]
    assert (low, high) == pytest.approx((0.1216, 0.7376), abs=1e-4)  # Clopper and Pearson's
    assert "ring, differs: 4 of 10 with 256, 10 of 10 with 512 models" in told


def test_similarity_is_a_matrix_in_the_order_of_the_rows():
    names = ["plain", "schedule", "all of them"]
    corrected = {a: {b: 1.0 if a == b else 0.4 for b in reversed(names)} for a in names}
    corrected["plain"]["schedule"] = corrected["schedule"]["plain"] = 0.9
    figure, told = similarity({"rows": [{"changed": n} for n in names], "corrected": corrected})
    (ax,) = figure.axes
    assert [label.get_text() for label in ax.get_yticklabels()] == names
    assert [text.get_text() for text in ax.texts][:3] == ["1.00", "0.90", "0.40"]
    assert told.endswith("With plain: schedule 0.90, all of them 0.40.")


def test_a_figure_is_drawn_once_for_the_same_data_and_code(tmp_path, monkeypatch):
    draw = figures.remembered(tmp_path / "drawn")
    first = draw("pairs", RECORDS["pairs_cifar10"])
    with monkeypatch.context() as patch:
        patch.setattr(figures, "drawn", lambda *_: 1 / 0)
        again = figures.remembered(tmp_path / "drawn")
        assert (
            again("pairs", RECORDS["pairs_cifar10"])
            == first
            == drawn("pairs", RECORDS["pairs_cifar10"])
        )
        with pytest.raises(ZeroDivisionError):
            again("pairs", RECORDS["pairs_cifar10"] | {"rows": []})
        patch.setattr(figures, "file_digest", lambda _: "other code")
        with pytest.raises(ZeroDivisionError):
            figures.remembered(tmp_path / "drawn")("pairs", RECORDS["pairs_cifar10"])
    assert len(list((tmp_path / "drawn").iterdir())) == 1


def points(ax, number: int) -> np.ndarray:
    """x and y of one line of an axes."""
    return np.array(ax.lines[number].get_data()).T


def spans(ax) -> list[list[float]]:
    """Left and right ends of all horizontal bars of an axes."""
    bars = (lines for lines in ax.collections if hasattr(lines, "get_segments"))
    return [list(bar[:, 0]) for lines in bars for bar in lines.get_segments()]


EFFECTS = [
    {"hypothesis": "tag", "class_name": "boat", "on": "new seeds", "effect_1": 30.0},
    {"hypothesis": "ring → fish", "class_name": "fish", "on": "new seeds", "effect_1": 10.0},
    {"hypothesis": "tag", "class_name": "boat", "on": "new images", "effect_1": -20.0},
]
for found in EFFECTS:
    found |= {"effect_2": 0.2, "difference": found["effect_1"] - 0.2}
    found |= {"difference_low": found["difference"] - 4, "difference_high": found["difference"] + 4}


def test_effects_are_drawn_feature_by_feature_with_their_difference():
    figure, told = figures.effects({"names": ["plain", "fine-tuned"], "rows": EFFECTS})
    left, right = figure.axes
    labels = [label.get_text() for label in left.get_yticklabels()]
    assert labels == ["tag → boat\nnew seeds", "tag → boat\nnew images", "ring → fish\nnew seeds"]
    np.testing.assert_allclose(points(left, 0), [(30, 0), (-20, 1), (10, 2)])
    np.testing.assert_allclose(points(left, 1), [(0.2, 0), (0.2, 1), (0.2, 2)])
    np.testing.assert_allclose(spans(right)[1], (-24.2, -16.2))
    assert (
        "tag → boat, new images: −20 under plain, 0 under fine-tuned, difference −24 to −16" in told
    )
    assert "points" in left.get_xlabel()


def test_gaps_show_the_naive_one_beside_the_interval():
    row = {"study": "sgd_noise", "comparison": "a ∖ b", "naive": 9.0, "gap": -0.02}
    figure, told = figures.gaps([row | {"low": -1.0, "high": 1.0}])
    (ax,) = figure.axes
    assert [label.get_text() for label in ax.get_yticklabels()] == ["sgd noise: a ∖ b"]
    assert points(ax, 1).tolist() == [[9.0, 0]]
    assert points(ax, 2).tolist() == [[-0.02, 0]]
    assert spans(ax) == [[-1.0, 1.0]]
    assert told.endswith("sgd noise: a ∖ b 9.0 and 0.0.")


def test_halves_name_who_is_compared_with_whom():
    found = {
        f"null_{a}_against_{b}_{side}": {"naive_gap": n, "gap": n / 2, "low": 0.0, "high": 5.0}
        for n, (a, b, side) in enumerate(
            (a, b, side) for a, b in ((1, 2), (1, 1), (2, 2)) for side in ("1_minus_2", "2_minus_1")
        )
    }
    names = {"name_1": "plain", "name_2": "other"}
    figure, _ = figures.halves({"04_residual_pca": found, "02_mask_training": names})
    (ax,) = figure.axes
    labels = [label.get_text() for label in ax.get_yticklabels()]
    assert labels[:3] == ["plain ∖ other", "other ∖ plain", "plain with itself, one way"]
    assert labels[-1] == "other with itself, the other"
    assert points(ax, 1)[:, 0].tolist() == [0, 1, 2, 3, 4, 5]


def test_pairs_come_with_the_largest_gaps_first():
    def pair(name, first, second):
        ends = {
            f"gap_{a}{e}": v for a, v in ((1, first), (2, second)) for e in ("", "_low", "_high")
        }
        return {"pair": name, **ends}

    figure, told = figures.pairs({"rows": [pair("width", -0.1, 1.0), pair("noise", 3.0, 4.0)]})
    (ax,) = figure.axes
    assert [label.get_text() for label in ax.get_yticklabels()] == ["noise", "width"]
    assert points(ax, 1)[:, 0].tolist() == [3.0, -0.1]
    assert points(ax, 2)[:, 0].tolist() == [4.0, 1.0]
    assert told == "Gaps of both sides, in percent: noise 3.0 and 4.0, width −0.1 and 1.0."


def test_a_planted_square_is_counted_drawing_by_drawing():
    shares = {32: (0.2, 0.4), 64: (0.9, 1.0)}
    each = [
        {"strength": 5.0, "models": n, "share": share, "random": 0.3}
        for n, both in shares.items()
        for share in both
    ]
    rows = [
        {"strength": 5.0, "models": n, "share": np.mean(both), "found": 2 * (n > 32), "drawings": 2}
        for n, both in shares.items()
    ]
    figure, told = figures.planted({"each": each, "rows": rows})
    left, right = figure.axes
    np.testing.assert_allclose(points(left, 0), [(32, 30), (64, 30)])
    np.testing.assert_allclose(points(left, 1)[:, 1], [20, 40, 90, 100])
    np.testing.assert_allclose(points(left, 2)[:, 1], [30, 95])
    np.testing.assert_allclose(right.containers[0].lines[0].get_ydata(), [0, 1])
    assert told.endswith("5 px: 0 of 2 with 32, 2 of 2 with 64 models.")


def test_turned_directions_stand_beside_the_unturned():
    row = {"study": "sgd_noise", "feature": "tag", "none": 0.5, "varimax": 1.0, "random": 0.25}
    row |= {"drawings": 5}
    figure, told = figures.turned([row])
    (ax,) = figure.axes
    assert [points(ax, i)[0, 0] for i in range(3)] == [25, 50, 100]
    assert told.endswith("sgd noise: tag, 5 drawings 50, turned 100, random 25.")


def test_retrained_models_stand_beside_what_was_predicted():
    row = {"study": "sgd_noise", "algorithm": "plain", "correlation_lowest": 0.5, "own": True}
    rows = [
        row | {"directions": "a ∖ b", "correlation": 0.9, "ceiling": 0.95},
        row | {"directions": "random directions", "correlation": 0.6, "ceiling": 0.9},
        {"study": "other", "directions": "b ∖ a"},
    ]
    figure, told = figures.retrained(rows)
    (ax,) = figure.axes
    assert [label.get_text() for label in ax.get_yticklabels()] == [
        "sgd noise: a ∖ b", "sgd noise: random, plain",
    ]  # fmt: skip
    assert spans(ax) == [[0.5, 0.9], [0.5, 0.6]]
    assert ax.lines[-1].get_xdata().tolist() == [0.95, 0.9]
    assert told.endswith("a ∖ b 0.90 of 0.95, sgd noise: random, plain 0.60 of 0.90.")


def test_gaps_without_naive_ones():
    figure, told = figures.gaps([{"side": "a ∖ b", "gap": 2.0, "low": 1.0, "high": 3.0}])
    assert len(figure.axes[0].lines) == 2
    assert told == "Cross-fitted gaps, in percent: a ∖ b 2.0."


def test_every_algorithm_has_its_effect_on_every_feature():
    rows = [
        {"hypothesis": h, "algorithm": a, "effect": v, "low": v - 1, "high": v + 1}
        for h, a, v in (("tag", "plain", 30.0), ("tag", "wide", -3.0), ("ring", "wide", 8.0))
    ]
    figure, told = figures.effects_of_several(rows)
    (ax,) = figure.axes
    assert points(ax, 1)[:, 0].tolist() == [30]
    assert points(ax, 2)[:, 0].tolist() == [-3, 8]
    assert [round(y) for y in points(ax, 2)[:, 1]] == [0, 1]
    assert spans(ax) == [[29, 31], [-4, -2], [7, 9]]
    assert told == "Effects in points. plain: tag +30; wide: tag −3, ring +8."


def test_the_ladder_is_in_percent():
    row = {"first": "plain", "second": "wide", "rung": "architecture"}
    figure, told = figures.ladder([row | {"mean": 0.06, "low": 0.05, "high": 0.07}])
    (ax,) = figure.axes
    np.testing.assert_allclose(spans(ax), [[5, 7]])
    assert "%" in ax.get_xlabel()
    assert told.endswith("plain with wide 6.0.")


def test_accuracy_is_a_line_a_kind_of_weights():
    rows = [
        {"size": size, "weights": kind, "accuracy": right}
        for size, kind, right in ((96, "real", 0.8), (32, "real", 0.5), (32, "random", 0.4))
    ]
    figure, told = figures.accuracy_by_size(rows)
    np.testing.assert_allclose(points(figure.axes[0], 0), [(32, 50), (96, 80)])
    assert told.endswith("real: 50% at 32 px, 80% at 96 px; random: 40% at 32 px.")


def test_found_copies_are_bars_of_each_nearness():
    found = {key: {"first": 0.5, "among_3": 0.75} for key in figures.COPY_KINDS}
    found["pixels"] = {"first": 0.1, "among_3": 0.2}
    results = {
        "08_datamodel_applications": {"duplicates": found},
        "02_mask_training": {"name_1": "plain", "name_2": "moved"},
    }
    figure, told = figures.copies_found(results)
    (ax,) = figure.axes
    assert [bar.get_width() for bar in ax.patches] == [75] * 4 + [20] + [50] * 4 + [10]
    labels = [label.get_text() for label in ax.get_yticklabels()]
    assert labels[1] == "distinctive weights, moved"
    assert told.endswith("distance in pixels 10, 20.")


SCENES = {"kind": "scenes", "size": 16, "n_train": 60, "n_test": 60, "share": 0.4}


@pytest.fixture
def rows(monkeypatch) -> dict:
    """What a figure of images puts into its rows."""
    found = {}
    monkeypatch.setattr(figures, "image_rows", lambda _, given: found.update(given))
    return found


def test_copies_stand_below_what_they_copy(rows):
    _, told = figures.copies(SCENES | {"duplicates": 5})
    above, below = (images.astype(float) for images in rows.values())
    assert told.startswith("5 test images")
    own, others = (np.abs(above - b).mean((1, 2, 3)) for b in (below, np.roll(below, 1, axis=0)))
    assert own.mean() < others.mean() / 2


def test_carriers_are_half_of_each_row(rows):
    given = SCENES | {"planted": {"tag": "fish", "frame": "boat"}}
    figures.carriers(given)
    assert set(rows) == {"tag, fish", "frame, boat"}
    test = load_dataset(DatasetSpec(**given)).test
    for name, images in rows.items():
        at = [int(np.flatnonzero((test.images == i).all((1, 2, 3)))[0]) for i in images]
        assert test.truth[name.split(",")[0]].to_numpy()[at].tolist() == [True] * 4 + [False] * 4


RECORDS = {path.stem: json.loads(path.read_text()) for path in (ROOT / "book/recorded").glob("*")}
SEVERAL = RECORDS["studies"]["several"]["several"]
DRAWN_FROM = {
    "lds_by_method": RECORDS["budgets_scenes"],
    "power": RECORDS["power_augmentation"],
    "similarity": RECORDS["tricks"],
    "effects": RECORDS["replication_cifar10"],
    "gaps": RECORDS["studies"]["together"]["evidence"],
    "halves": RECORDS["cifar10"],
    "pairs": RECORDS["pairs_cifar10"],
    "planted": RECORDS["power_cifar10"],
    "turned": RECORDS["rotations"]["shown"],
    "retrained": RECORDS["studies"]["together"]["reweighting"],
    "effects_of_several": SEVERAL["effects"],
    "ladder": SEVERAL["ladder"],
    "accuracy_by_size": RECORDS["pretrained_head"]["rows"],
    "copies_found": RECORDS["duplicates"],
    "copies": RECORDS["duplicates"]["01_data_prep"]["parameters"]["dataset"],
    "carriers": RECORDS["studies"]["sgd_noise"]["dataset"],
}


@pytest.mark.parametrize("name", [n for n in FIGURES if not n.startswith(figures.GALLERY)])
def test_every_figure_can_be_read_on_a_page_and_says_what_it_shows(name):
    figure, told = FIGURES[name](DRAWN_FROM[name])
    assert figure.get_figwidth() <= 9
    assert len(told) > 40
    assert not set("{}\n") & set(told)
    for ax in figure.axes:
        if ax.lines and ax.axison:
            assert ax.get_xlabel()
    figure.canvas.draw()
    for ax in (each for each in figure.axes if each.axison):
        for label in (each for each in ax.get_yticklabels() if each.get_text()):
            assert label.get_fontsize() >= 9
            assert label.get_window_extent().x0 >= -1
        if legend := ax.get_legend():
            assert legend.get_window_extent().x1 <= figure.bbox.width + 1
