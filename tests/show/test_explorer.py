"""The explorer's data are those of the comparison, and the view shows them, without a kernel."""

import base64
import functools
import http.server
import io
import json
import shutil
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import traitlets
from PIL import Image

import mdhelpers
from mdhelpers.show.explorer import Explorer, explorer, sprite_sheet

N_TEST, N_TRAIN, TOP_K = 60, 40, 5
CLASS_NAMES = ("boat", "fish", "house")
VIEW_TRAITS = ("comparison", "direction", "end", "example", "reveal", "names", "class_names")
VIEW_TRAITS += ("features", "comparisons", "test", "train")
SHORT = SimpleNamespace(projections=np.zeros((3, 2)))


def split(rng, n, size=24):
    images = rng.integers(0, 256, (n, size, size, 3), dtype=np.uint8)
    return SimpleNamespace(images=images, labels=rng.integers(0, 3, n))


def direction_set(rng, components):
    k = len(components)
    return SimpleNamespace(
        projections=rng.normal(size=(N_TEST, k)).astype(np.float32),
        explained_variance=rng.uniform(0.01, 0.05, (k, 2)).astype(np.float32),
        component=np.array(components),
    )


def parts(size=24):
    rng = np.random.default_rng(0)
    return {
        "comparison": {
            "1_minus_2": direction_set(rng, [1, 2, 3]),
            "2_minus_1": direction_set(rng, [4, 1]),
        },
        "datamodels_1": SimpleNamespace(weights=rng.normal(size=(N_TEST, N_TRAIN))),
        "datamodels_2": SimpleNamespace(weights=rng.normal(size=(N_TEST, N_TRAIN))),
        "train_split": split(rng, N_TRAIN, size),
        "test_split": split(rng, N_TEST, size),
        "class_names": CLASS_NAMES,
    }


def extras():
    rows = [("1_minus_2", 2, "top", "a <b>tag</b>", 0.3), ("1_minus_2", 2, "top", "a boat", 0.4)]
    captions = pd.DataFrame(rows, columns=["comparison", "direction", "end", "caption", "score"])
    rows = [("2_minus_1", 4, "top", "tag", 0.91), ("2_minus_1", 1, "top", "tag", np.nan)]
    columns = ["comparison", "direction", "end", "feature", "auc_within_class"]
    truth = pd.DataFrame({"tag": np.arange(N_TEST) % 3 == 0, "yellow_square": False})
    return {"captions": captions, "grades": pd.DataFrame(rows, columns=columns), "truth": truth}


@pytest.fixture(scope="module")
def inputs():
    return parts()


@pytest.fixture(scope="module")
def widget(inputs):
    return explorer(**inputs, **extras(), names=("fixed", "shifted"), top_k=TOP_K)


def tiles(sheet):
    """The images of a sheet, cut out one by one."""
    kind, payload = sheet["url"].split(",", 1)
    assert kind in ("data:image/png;base64", "data:image/jpeg;base64")
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(payload))))
    h, w, columns = sheet["height"], sheet["width"], sheet["columns"]
    places = [divmod(tile, columns) for tile in range(columns * sheet["rows"])]
    return np.stack([picture[r * h : (r + 1) * h, c * w : (c + 1) * w] for r, c in places])


@pytest.mark.parametrize("n", [1, 2, 7, 16])
def test_sheet_holds_the_images_bit_for_bit(n):
    images = np.random.default_rng(n).integers(0, 256, (n, 5, 9, 3), dtype=np.uint8)
    sheet = sprite_sheet(images)
    np.testing.assert_array_equal(tiles(sheet)[:n], images)
    assert sheet["columns"] * sheet["rows"] >= n


def test_large_images_are_shrunk():
    sheet = sprite_sheet(np.full((3, 200, 100, 3), 90, np.uint8))
    assert (sheet["height"], sheet["width"]) == (64, 32)
    np.testing.assert_allclose(tiles(sheet)[:3], 90, atol=3)


def test_widget_carries_the_right_images(widget, inputs):
    for sheet, which in ((widget.test, "test_split"), (widget.train, "train_split")):
        index = sheet["index"]
        np.testing.assert_array_equal(tiles(sheet)[: len(index)], inputs[which].images[index])
        assert sheet["labels"] == inputs[which].labels[index].tolist()


def test_ends_are_the_extreme_projections_outermost_first(widget, inputs):
    for name, directions in widget.comparisons.items():
        for position, direction in enumerate(directions):
            projection = inputs["comparison"][name].projections[:, position]
            ranked = sorted(range(N_TEST), key=lambda i: -projection[i])
            assert direction["images"]["top"] == ranked[:TOP_K]
            assert direction["images"]["bottom"] == ranked[::-1][:TOP_K]
            shown = direction["projections"]["top"]
            np.testing.assert_allclose(shown, projection[ranked[:TOP_K]], rtol=1e-3)
            explained = inputs["comparison"][name].explained_variance[position]
            np.testing.assert_allclose(direction["explained"], 100 * explained, rtol=1e-3)


def test_contrast_is_of_the_same_classes_and_not_in_the_subpopulation(widget, inputs):
    labels = inputs["test_split"].labels
    for directions in widget.comparisons.values():
        for direction in directions:
            for end, images in direction["images"].items():
                contrast = direction["contrast"][end]
                assert contrast
                assert not set(contrast) & set(images)
                assert set(labels[contrast]) <= set(labels[images])


def test_neighbours_have_the_largest_weights(widget, inputs):
    for number, neighbours in enumerate(widget.test["neighbours"], start=1):
        weights = inputs[f"datamodels_{number}"].weights
        for tile, index in enumerate(widget.test["index"]):
            expected = np.sort(weights[index])[::-1][:6]
            np.testing.assert_allclose(neighbours["weight"][tile], expected, rtol=1e-3)
            at = weights[index][neighbours["index"][tile]]
            np.testing.assert_allclose(at, expected)
    assert set(np.ravel([n["index"] for n in widget.test["neighbours"]])) == set(
        widget.train["index"]
    )


def test_captions_and_grades_go_to_the_direction_of_their_number(widget):
    one, two = widget.comparisons["1_minus_2"], widget.comparisons["2_minus_1"]
    assert [d["number"] for d in two] == [4, 1]
    assert one[1]["captions"]["top"] == [["a boat", 0.4], ["a <b>tag</b>", 0.3]]
    assert one[0]["captions"]["top"] == one[1]["captions"]["bottom"] == []
    assert two[0]["grades"]["top"] == {"tag": 0.91}
    assert two[1]["grades"]["top"] == {}  # undefined: not a number JSON can hold


def test_planted_features_belong_to_their_images(widget):
    expected = [[0] if index % 3 == 0 else [] for index in widget.test["index"]]
    assert widget.test["features"] == expected
    assert widget.features == ["tag", "yellow_square"]


def test_state_is_plain_json_and_small(widget):
    state = {name: getattr(widget, name) for name in VIEW_TRAITS}
    assert json.loads(json.dumps(state, allow_nan=False)) == state
    assert all(name in widget.keys for name in (*VIEW_TRAITS, "_esm", "_css"))


def test_only_existing_views_can_be_chosen(widget):
    with pytest.raises(traitlets.TraitError, match="expected one of"):
        widget.direction = 9
    with pytest.raises(traitlets.TraitError):
        widget.end = "middle"
    assert isinstance(widget, Explorer)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"datamodels_2": SimpleNamespace(weights=np.zeros((N_TRAIN, N_TEST)))}, "datamodels_2"),
        ({"class_names": ("boat", "fish")}, "Label 2 has no name"),
        ({"truth": pd.DataFrame({"tag": [True]})}, "truth has 1 rows"),
        ({"top_k": 0}, "top_k is 0"),
        ({"comparison": dict.fromkeys(("1_minus_2", "2_minus_1"), SHORT)}, "projections"),
    ],
)
def test_what_does_not_belong_together_is_refused(inputs, change, message):
    with pytest.raises(ValueError, match=message):
        explorer(**{**inputs, **change})


# ---- the view, in a browser ---------------------------------------------------------------------

PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><link rel="icon" href="data:,">
<link rel="stylesheet" href="explorer.css"><div id="here"></div><script type="module">
import widget from "./explorer.js";
const values = await (await fetch("./state.json")).json();
const listeners = {};
window.values = values;
const model = {
  get: (name) => values[name],
  set(name, value) {
    if (values[name] === value) return;
    values[name] = value;
    (listeners[`change:${name}`] ?? []).forEach((listener) => listener());
  },
  on: (event, listener) => (listeners[event] ??= []).push(listener),
  off(event, listener) { listeners[event] = listeners[event].filter((l) => l !== listener); },
  save_changes() {},
};
window.model = model;
window.left = () => Object.values(listeners).flat().length;
window.stop = widget.render({ model, el: document.getElementById("here") });
window.ready = true;
</script>"""
FLAGS = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
FLAGS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def address(widget, tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    for name in ("explorer.js", "explorer.css"):
        shutil.copy(Path(mdhelpers.__file__).parent / "show" / name, folder)
    state = {name: getattr(widget, name) for name in VIEW_TRAITS}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "index.html").write_text(PAGE)
    handler = functools.partial(QuietHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def chromium():
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("no chromium on the PATH")
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(chromium, address):
    page = chromium.new_page(viewport={"width": 1000, "height": 900})
    faults = []
    page.on("console", lambda m: faults.append(m.text) if m.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("request", lambda r: r.url.startswith((address, "data:")) or faults.append(r.url))
    page.goto(address)
    page.wait_for_function("window.ready")
    yield page
    page.close()
    assert faults == []


def shown(page):
    """Test images of the chosen end, by index."""
    buttons = page.locator(".mdx-end button").all()
    return [int(button.get_attribute("data-index")) for button in buttons]


def chosen(page):
    return page.evaluate("[values.comparison, values.direction, values.end, values.example]")


@pytest.mark.browser
def test_view_begins_with_the_first_direction(page, widget):
    first = widget.comparisons["1_minus_2"][0]
    assert shown(page) == first["images"]["top"]
    captions = page.locator(".mdx-end .mdx-class").all_text_contents()
    labels = dict(zip(widget.test["index"], widget.test["labels"], strict=True))
    assert captions == [CLASS_NAMES[labels[i]] for i in first["images"]["top"]]


@pytest.mark.browser
def test_tiles_show_the_very_pixels(page, inputs, widget):
    position = 3
    index = widget.comparisons["1_minus_2"][0]["images"]["top"][position]
    tile = page.locator(".mdx-end .mdx-picture").nth(position)
    # On whole pixels of the screen; elsewhere its rim would mix with what is around it.
    tile.evaluate("e => e.style.cssText += 'position: fixed; left: 0; top: 0'")
    png = tile.screenshot()
    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
    image = inputs["test_split"].images[index]
    np.testing.assert_array_equal(pixels, image.repeat(3, 0).repeat(3, 1))


@pytest.mark.browser
def test_points_buttons_and_arrows_choose_the_direction(page, widget):
    before = shown(page)
    page.locator(".mdx-point.mdx-1_minus_2[data-direction='3'] text").click()
    assert chosen(page)[:2] == ["1_minus_2", 3]
    assert shown(page) == widget.comparisons["1_minus_2"][2]["images"]["top"] != before
    assert page.get_by_label("next direction").is_disabled()
    page.get_by_label("previous direction").click()
    assert chosen(page)[1] == 2
    page.locator(".mdx-point[aria-pressed='true']").focus()
    page.keyboard.press("ArrowLeft")
    assert chosen(page)[1] == 1
    page.keyboard.press("ArrowDown")  # the focus went along to the point now chosen
    assert chosen(page)[1] == 2
    assert page.locator(".mdx-point:focus").get_attribute("data-direction") == "2"


@pytest.mark.browser
def test_other_comparison_and_end(page, widget):
    page.get_by_text("shifted ∖ fixed", exact=True).click()
    assert chosen(page)[:2] == ["2_minus_1", 4]  # its first direction is component 4
    assert "#4 (1 of 2)" in page.locator(".mdx-stepper").inner_text()
    page.get_by_text("bottom", exact=True).click()
    assert shown(page) == widget.comparisons["2_minus_1"][0]["images"]["bottom"]


@pytest.mark.browser
def test_clicked_image_shows_its_training_images(page, widget):
    button = page.locator(".mdx-end button").nth(2)
    button.click()
    index = shown(page)[2]
    assert chosen(page)[3] == index
    assert button.get_attribute("aria-pressed") == "true"
    rows = page.locator(".mdx-row").all()
    for row, neighbours in zip(rows, widget.test["neighbours"], strict=True):
        wanted = neighbours["index"][widget.test["index"].index(index)]
        found = row.locator(".mdx-picture").evaluate_all("all => all.map(e => +e.dataset.tile)")
        assert [widget.train["index"][tile] for tile in found] == wanted


def test_evidence_and_use_are_told_of_each_end(inputs):
    gaps = pd.DataFrame({"comparison": "1_minus_2", "direction": [1], "evidence": ["strong"]})
    row = {"comparison": "1_minus_2", "direction": 1, "label": 0, "times": 2.04}
    row |= {"times_low": 1.5, "times_high": np.inf}
    uses = pd.DataFrame(
        [row | {"end": "top", "use": "more_1"}, row | {"end": "bottom", "use": "too_few"}]
    )
    told = explorer(**inputs, names=("fixed", "shifted"), gaps=gaps, uses=uses, top_k=TOP_K)
    first, *others = told.comparisons["1_minus_2"]
    name = inputs["class_names"][0]
    assert first["evidence"] == "strong"
    assert first["uses"]["top"] == [f"{name}: fixed more (× 2.0; 1.5 to more)"]
    assert first["uses"]["bottom"] == [f"{name}: too few to tell"]
    assert all(not other["evidence"] for other in others)
    gaps["confirmed"] = "not confirmed"
    told = explorer(**inputs, names=("fixed", "shifted"), gaps=gaps, uses=uses, top_k=TOP_K)
    said = told.comparisons["1_minus_2"][0]["evidence"]
    assert said == "strong, not confirmed by retraining"


@pytest.mark.browser
def test_truth_stays_hidden_until_it_is_asked_for(page):
    page.get_by_text("shifted ∖ fixed", exact=True).click()
    assert page.get_by_role("heading", name="The planted truth").count() == 0
    assert not page.locator(".mdx-planted").first.is_visible()
    page.get_by_label("reveal the planted truth").check()
    assert page.locator(".mdx-planted").first.is_visible()
    assert "0.91" in page.locator(".mdx-evidence table").inner_text()
    assert "yellow square" in page.locator(".mdx-evidence table").inner_text()


@pytest.mark.browser
def test_captions_are_text_not_markup(page):
    page.get_by_label("next direction").click()
    assert page.locator(".mdx-evidence li").all_inner_texts() == [
        "a boat +0.40",
        "a <b>tag</b> +0.30",
    ]


@pytest.mark.browser
def test_changes_from_python_are_followed_until_the_view_closes(page, widget):
    page.evaluate("model.set('direction', 3)")
    assert shown(page) == widget.comparisons["1_minus_2"][2]["images"]["top"]
    page.evaluate("window.stop()")
    assert page.evaluate("left()") == 0


@pytest.mark.browser
@pytest.mark.parametrize("width", [400, 700, 1280])
def test_nothing_runs_over_the_side(page, width):
    page.set_viewport_size({"width": width, "height": 900})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    plot = page.locator(".mdx-plot").bounding_box()
    images = page.locator(".mdx-end").bounding_box()
    assert (images["y"] > plot["y"] + 0.5 * plot["height"]) == (width == 400)


@pytest.mark.browser
def test_dark_themes_are_followed(page):
    page.evaluate("document.documentElement.dataset.theme = 'dark'")
    page.add_style_tag(
        content=":root { --pst-color-background: rgb(20, 24, 30);"
        " --pst-color-text-base: rgb(206, 214, 221); --jp-layout-color1: white }"
    )
    style = "e => [getComputedStyle(e).backgroundColor, getComputedStyle(e).color]"
    assert page.locator(".mdx").evaluate(style) == ["rgb(20, 24, 30)", "rgb(206, 214, 221)"]


@pytest.mark.parametrize(("n_test", "shown"), [(60, 16), (8, 4), (3, 1)])
def test_few_test_images_are_enough_for_a_widget(inputs, n_test, shown):
    few = dict(inputs)
    few["test_split"] = split(np.random.default_rng(1), n_test)
    few["comparison"] = {
        name: SimpleNamespace(**vars(found) | {"projections": found.projections[:n_test]})
        for name, found in inputs["comparison"].items()
    }
    for a in (1, 2):
        few[f"datamodels_{a}"] = SimpleNamespace(weights=inputs[f"datamodels_{a}"].weights[:n_test])
    ends = explorer(**few).comparisons["1_minus_2"][0]["images"]
    assert len(ends["top"]) == len(ends["bottom"]) == shown
