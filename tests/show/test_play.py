"""The toys say what NumPy says: predicted and found outputs, arrows, and the comparison anew."""

import re
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import quote

import numpy as np
import pytest

from mdhelpers.book import widgets
from mdhelpers.book.widgets import host, script, view_of, with_files
from mdhelpers.method.comparison import compare
from mdhelpers.show import play, recompute
from mdhelpers.show.views import CSS
from tests.show.test_explorer import CLASS_NAMES, chromium, split  # noqa: F401 (a fixture)

N_TEST, N_TRAIN, N_MODELS, NAMES = 30, 24, 40, ["fixed", "shifted"]
RNG = np.random.default_rng(3)
WEIGHTS = [RNG.normal(size=(N_TEST, N_TRAIN)) for _ in range(2)]
TRAIN, TEST = split(RNG, N_TRAIN), split(RNG, N_TEST)


def study_models():
    masks = RNG.random((N_MODELS, N_TRAIN)).argsort(1) < N_TRAIN // 2
    trained = [SimpleNamespace(masks=masks, margins=masks @ w.T) for w in WEIGHTS]
    dataset = SimpleNamespace(train=TRAIN, test=TEST, class_names=CLASS_NAMES)
    return SimpleNamespace(
        heldout=lambda a: trained[a - 1],
        outputs=lambda each, _relative: each.margins,
        dataset=dataset,
        names=NAMES,
        plan=SimpleNamespace(alpha=0.5),
    )


def study_fits():
    grades = SimpleNamespace(per_example=np.linspace(0, 1, N_TEST))
    models = [SimpleNamespace(weights=w) for w in WEIGHTS]
    return SimpleNamespace(datamodels=models, lds=[grades, grades])


def compared():
    models = [SimpleNamespace(weights=w) for w in WEIGHTS]
    return SimpleNamespace(datamodels=models, comparison=compare(*WEIGHTS, n_directions=4))


@pytest.fixture
def page(chromium, tmp_path):  # noqa: F811
    opened, faults = [], []

    def show(name, widget, *, beside=None):
        shown = [key for key in widget.keys if key not in ("layout", "tabbable", "tooltip")]
        view = view_of({key: getattr(widget, key) for key in shown})
        path = tmp_path / "page.html"
        style = f"<!doctype html><meta charset=utf-8><style>{CSS.read_text()}</style>"
        if beside is not None:
            files = {}
            view = with_files(view, files, "")
            for file, content in files.items():
                place = tmp_path / "_static/sheets" / Path(file).name
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(content)
            beside += [Path(file).name for file in files]
        path.write_text(style + host(name, view) + script(name))
        page = chromium.new_page()
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.goto(path.as_uri())
        page.locator(".mdx").wait_for()
        opened.append(page)
        return page

    yield show
    for each in opened:
        each.close()
    assert faults == []


def told(page):
    """Predicted, found and how many models, of both algorithms."""
    texts = page.locator(".mdx-outcomes p").all_inner_texts()
    number = r"([−+][\d.]+)"
    pattern = rf"predicted {number}; (\d+) held-out models? that saw just that: {number}"
    rows = [re.search(pattern, text).groups() for text in texts]
    return [[float(value.replace("−", "-")) for value in row] for row in rows]


@pytest.mark.browser
def test_what_is_touched_is_what_was_trained(page):
    models = study_models()
    shown = page("play", play.touch(models, study_fits(), relative=True, n_examples=3))
    widget = play.touch(models, study_fits(), relative=True, n_examples=3)
    example = widget.examples[0]
    assert len({TEST.labels[each["test"]] for each in widget.examples}) == 3
    buttons = shown.locator("button.mdx-tile")
    buttons.nth(0).click()
    buttons.nth(2).click()
    buttons.nth(2).click()
    first, third = example["train"][0], example["train"][2]
    masks = models.heldout(1).masks
    such = masks[:, first] & ~masks[:, third]
    for algorithm, (predicted, n, found) in enumerate(told(shown)):
        outputs = models.heldout(algorithm + 1).margins[:, example["test"]]
        w = WEIGHTS[algorithm][example["test"]]
        assert n == such.sum() > 0
        assert found == pytest.approx(outputs[such].mean(), rel=0.06)
        by_hand = outputs.mean() + 0.5 * w[first] - 0.5 * w[third]
        assert predicted == pytest.approx(by_hand, rel=0.06, abs=0.01)
    shown.get_by_role("button", name="all by chance again").click()
    assert [n for _, n, _ in told(shown)] == [N_MODELS, N_MODELS]


@pytest.mark.browser
def test_arrows_stand_at_the_angle_of_the_datamodels(page):
    found = compared()
    widget = play.arrows(found, TRAIN, TEST, CLASS_NAMES, names=NAMES)
    shown = page("play", widget)
    order = np.argsort(found.comparison.cosines)
    assert widget.examples[0]["test"] == order[0]
    angle = np.degrees(np.arccos(found.comparison.cosines[order[0]]))
    label = shown.locator(".mdx-plane").get_attribute("aria-label")
    assert label.startswith(f"Two arrows at {angle:.0f} degrees")
    shown.get_by_role("button", name="another test image").click()
    assert shown.locator(".mdx-plane").get_attribute("aria-label") != label
    along = found.comparison.one_minus_two.projections[:, 0]
    assert widget.sorted[0]["test"][0] == along.argmin()
    assert widget.sorted[0]["test"][-1] == along.argmax()


def gaps(page):
    """Naive gaps, and those on others, as the bars tell them."""
    labels = [
        bar.get_attribute("aria-label").replace("−", "-")
        for bar in page.locator(".mdx-gaps g[role=button]").all()
    ]
    pattern = r"naive gap (-?[\d.]+)%(?:, on other models (-?[\d.]+)%)?"
    return [re.search(pattern, label).groups() for label in labels]


def explained(weights, u):
    rows = weights / np.linalg.norm(weights, axis=1, keepdims=True)
    return 100 * np.square(rows @ u.T).sum(0) / len(rows)


def recomputing():
    """The widget, the datamodels of all parts, and the directions of all models."""
    rng = np.random.default_rng(5)
    parts = {
        f"{size}_{part}_{a}": WEIGHTS[a - 1] + 0.3 * rng.normal(size=(N_TEST, N_TRAIN))
        for size in (2, 4)
        for part in range(size)
        for a in (1, 2)
    }
    fits = {f"all_{a}": w for a, w in enumerate(WEIGHTS, 1)} | parts
    run = compare(*WEIGHTS, n_directions=8).one_minus_two
    widget = recompute.Recompute(
        names=NAMES,
        class_names=list(CLASS_NAMES),
        n_models=64,
        shape=[N_TEST, N_TRAIN],
        fits={name: recompute.rows(w, 8) for name, w in fits.items()},
        reference={"directions": recompute.rows(run.directions, 16)},
        test=play.tiles(TEST, range(N_TEST)),
    )
    return widget, fits, run


@pytest.mark.browser
def test_neither_an_address_nor_data_name_a_script(page, monkeypatch):
    monkeypatch.setattr(widgets, "LONG", 100)
    shown = page("recompute", recomputing()[0], beside=[])
    shown.locator(".mdx-gaps").wait_for()
    asked = []
    shown.on("request", lambda request: asked.append(request.url))
    evil = '{"all_1":{"bits":8,"key":"../../evil","src":"https://evil.example/x.js"}}'
    shown.goto(shown.url.split("#")[0] + "?2#mdx&size=2&fits=" + quote(evil))
    shown.get_by_text("from 32 models of each").wait_for()
    assert not [url for url in asked[1:] if "evil" in url]


def test_an_array_beside_a_page_is_an_array_and_nothing_else():
    files = {}
    evil = '";alert(1);//' + "A" * widgets.LONG
    made = with_files({"bits": 8, "data": evil, "src": "https://evil.example/x.js"}, files, "")
    assert set(made) == {"bits", "key"}
    (script,) = files.values()
    assert re.fullmatch(rb'[^"]*"[0-9a-f]{16}"\] = "[A-Za-z0-9+/=]*";\n', script)


@pytest.mark.browser
def test_arrays_lie_beside_a_page_and_are_read_when_they_are_wanted(page, tmp_path, monkeypatch):
    monkeypatch.setattr(widgets, "LONG", 100)
    beside = []
    shown = page("recompute", recomputing()[0], beside=beside)
    assert sum(name.endswith(".js") for name in beside) >= 14
    assert len((tmp_path / "page.html").read_text().split('"fits":')[1].split("}}")[0]) < 3000
    shown.locator(".mdx-gaps").wait_for()
    root = shown.locator(".mdx-recompute")
    assert float(root.get_attribute("data-agreement")) > 0.999
    before = gaps(shown)
    shown.get_by_label("Models of each").select_option("2")
    root.get_by_text("from 32 models of each").wait_for()
    assert gaps(shown) != before
    for path in (tmp_path / "_static/sheets").glob("*.js"):
        path.unlink()
    shown.get_by_label("Models of each").select_option("4")
    root.get_by_text("the folder _static has to lie beside this page").wait_for()


@pytest.mark.browser
def test_the_page_computes_what_the_package_computes(page):
    widget, fits, run = recomputing()
    shown = page("recompute", widget)
    root = shown.locator(".mdx-recompute")
    assert float(root.get_attribute("data-agreement")) > 0.999
    naive = [float(first) for first, _ in gaps(shown)]
    np.testing.assert_allclose(naive, 100 * run.naive_gap, atol=0.12)
    top = shown.locator(".mdx-grid .mdx-picture").first.get_attribute("data-tile")
    assert int(top) == run.projections[:, 0].argmax()
    shown.get_by_label("Compare").select_option("22")  # itself: quarters, so that others are left
    assert shown.get_by_label("Models of each").input_value() == "4"
    here = compare(fits["4_0_2"], fits["4_1_2"], n_directions=8).one_minus_two
    u = here.directions
    others = explained(fits["4_2_2"], u) - explained(fits["4_3_2"], u)
    found = np.array(gaps(shown), float)
    np.testing.assert_allclose(found[:, 0], 100 * here.naive_gap, atol=0.3)
    np.testing.assert_allclose(found[:, 1], others, atol=0.3)
    assert "one and the same algorithm" in root.inner_text()
