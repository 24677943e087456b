"""The explorer's data are those of the comparison, and the view shows them, without a kernel."""

import base64
import functools
import http.server
import io
import json
import shutil
import threading
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import traitlets
from PIL import Image

from mdhelpers.book.widgets import host, script
from mdhelpers.show import explorer as view
from mdhelpers.show.explorer import Explorer, explorer, packed, sprite_sheet
from mdhelpers.show.views import CSS, esm

N_TEST, N_TRAIN, TOP_K = 60, 40, 5
CLASS_NAMES = ("boat", "fish", "house")
VIEW_TRAITS = [
    name for name, trait in Explorer.class_own_traits().items() if trait.metadata["sync"]
]
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


def hypotheses():
    pictures = np.random.default_rng(1).integers(0, 256, (8, 24, 24, 3), dtype=np.uint8)
    case = {"class_name": "boat", "unit": "px", "sentence": "It moves fixed."}
    case |= {"verdict": "fixed more", "intensities": [3.0, 5.0], "finding": True, "n_images": 2}
    one, two = [[10.0, 8.0, 12.0], [30.0, 25.0, 35.0]], [[1.0, -1.0, 3.0], [2.0, 0.0, 4.0]]
    case["effects"] = {1: one, 2: two}
    case["placebo"] = {1: [[-2.0, -3.0, -1.0]], 2: [[0.0, -1.0, 1.0]]}
    sheet = sprite_sheet(pictures)
    return [case | {"name": f"{name} → boat", "sheet": sheet} for name in ("tag", "ring")]


def extras():
    rows = [("1_minus_2", 2, "top", "a <b>tag</b>", 0.3), ("1_minus_2", 2, "top", "a boat", 0.4)]
    captions = pd.DataFrame(rows, columns=["comparison", "direction", "end", "caption", "score"])
    rows = [("2_minus_1", 4, "top", "tag", 0.91), ("2_minus_1", 1, "top", "tag", np.nan)]
    columns = ["comparison", "direction", "end", "feature", "auc_within_class"]
    truth = pd.DataFrame({"tag": np.arange(N_TEST) % 3 == 0, "yellow_square": False})
    grades = pd.DataFrame(rows, columns=columns)
    right = np.random.default_rng(2).uniform(size=(2, N_TEST))
    known = {"hypotheses": hypotheses(), "right": right}
    return {"captions": captions, "grades": grades, "truth": truth} | known


@pytest.fixture(scope="module")
def inputs():
    return parts()


@pytest.fixture(scope="module")
def widget(inputs):
    return explorer(**inputs, **extras(), names=("fixed", "shifted"), top_k=TOP_K)


def tiles(sheet):
    """The images of a sheet, cut out one by one."""
    kind, payload = sheet["url"].split(",", 1)
    assert kind in ("data:image/png;base64", "data:image/webp;base64")
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(payload))))
    h, w, columns = sheet["height"], sheet["width"], sheet["columns"]
    places = [divmod(tile, columns) for tile in range(columns * sheet["rows"])]
    return np.stack([picture[r * h : (r + 1) * h, c * w : (c + 1) * w] for r, c in places])


def unpacked(block):
    """What `packed` packed."""
    flat = np.frombuffer(base64.b64decode(block["data"]), block["type"])
    if block["scale"] != 1:
        flat = np.where(flat == -32768, np.nan, flat * block["scale"])
    return flat.reshape(block["shape"])


@pytest.mark.parametrize(
    "values",
    [
        np.array([3, -1, 7]),
        np.array([[70_000, 2]]),
        np.empty(0, int),
        np.array([[0.5, -2.0, np.nan]]),
        np.zeros(2),
    ],
)
def test_packed_arrays_come_back(values):
    block = json.loads(json.dumps(packed(values), allow_nan=False))
    np.testing.assert_allclose(unpacked(block), values, atol=2 / 32767)


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
    for part, which in ((widget.test, "test_split"), (widget.train, "train_split")):
        index = unpacked(part["index"])
        shown = np.concatenate([tiles(sheet)[: sheet["count"]] for sheet in part["sheets"]])
        np.testing.assert_array_equal(shown, inputs[which].images[index])
        np.testing.assert_array_equal(unpacked(part["labels"]), inputs[which].labels[index])
    np.testing.assert_array_equal(unpacked(widget.test["index"]), np.arange(N_TEST))


def test_the_whole_direction_and_what_it_explains(widget, inputs):
    for name, directions in widget.comparisons.items():
        for position, direction in enumerate(directions):
            projection = inputs["comparison"][name].projections[:, position]
            np.testing.assert_allclose(unpacked(direction["projections"]), projection, atol=1e-3)
            explained = inputs["comparison"][name].explained_variance[position]
            np.testing.assert_allclose(direction["explained"], 100 * explained, rtol=1e-3)


def ends_of(projections):
    """The outermost images of either end, as NumPy sorts them."""
    order = np.argsort(-projections, kind="stable").tolist()
    return {"top": order[:TOP_K], "bottom": order[::-1][:TOP_K]}


def test_contrast_is_of_the_same_classes_and_not_in_the_subpopulation(widget, inputs):
    labels = inputs["test_split"].labels
    for name, directions in widget.comparisons.items():
        for position, direction in enumerate(directions):
            ends = ends_of(inputs["comparison"][name].projections[:, position])
            for end, images in ends.items():
                contrast = direction["contrast"][end]
                assert contrast
                assert not set(contrast) & set(images)
                assert set(labels[contrast]) <= set(labels[images])


def test_neighbours_have_the_largest_and_the_smallest_weights(widget, inputs):
    index = unpacked(widget.train["index"])
    place, weight = (unpacked(widget.test["pulls"][key]) for key in ("place", "weight"))
    for number in (0, 1):
        weights = inputs[f"datamodels_{number + 1}"].weights
        ranked = np.sort(weights, axis=1)
        np.testing.assert_allclose(weight[number, :, 0], ranked[:, ::-1][:, :6], atol=1e-3)
        np.testing.assert_allclose(weight[number, :, 1], ranked[:, :6], atol=1e-3)
        chosen = index[place[number]].reshape(N_TEST, -1)
        found = np.take_along_axis(weights, chosen, axis=1).reshape(N_TEST, 2, 6)
        np.testing.assert_allclose(weight[number], found, atol=1e-3)
        moved = unpacked(widget.train["pulls"]["weight"])[number]
        ranked = np.sort(weights[:, index], axis=0)
        np.testing.assert_allclose(moved[:, 0], ranked[::-1][:6].T, atol=1e-3)
        np.testing.assert_allclose(moved[:, 1], ranked[:6].T, atol=1e-3)


def test_what_a_page_cannot_carry_is_left_out(inputs, monkeypatch):
    monkeypatch.setattr(view, "_MOST_TRAIN", 9)
    monkeypatch.setattr(view, "_MOST_TEST", 10)
    few = explorer(**inputs, top_k=TOP_K)
    index = unpacked(few.test["index"])
    outermost = np.argsort(-inputs["comparison"]["1_minus_2"].projections[:, 0])[:TOP_K]
    assert set(outermost) <= set(index)
    assert len(index) < N_TEST
    assert unpacked(few.train["index"]).shape == (9,)
    place = unpacked(few.test["pulls"]["place"])
    assert (place == -1).any()
    assert (place[:, np.searchsorted(index, outermost[0])] >= 0).any()
    for direction in few.comparisons["2_minus_1"]:
        assert set(direction["contrast"]["top"]) <= set(index)


def test_captions_and_grades_go_to_the_direction_of_their_number(widget):
    one, two = widget.comparisons["1_minus_2"], widget.comparisons["2_minus_1"]
    assert [d["number"] for d in two] == [4, 1]
    assert one[1]["captions"]["top"] == [["a boat", 0.4], ["a <b>tag</b>", 0.3]]
    assert one[0]["captions"]["top"] == one[1]["captions"]["bottom"] == []
    assert two[0]["grades"]["top"] == {"tag": 0.91}
    assert two[1]["grades"]["top"] == {}  # undefined: not a number JSON can hold


def test_planted_features_belong_to_their_images(widget):
    expected = [[0] if index % 3 == 0 else [] for index in range(N_TEST)]
    assert widget.test["features"] == expected
    assert widget.features == ["tag", "yellow_square"]


def test_state_is_plain_json(widget):
    state = {name: getattr(widget, name) for name in VIEW_TRAITS}
    assert json.loads(json.dumps(state, allow_nan=False))
    assert {"comparisons", "test", "train", "hypotheses", "notes"} <= set(VIEW_TRAITS)


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
    (folder / "explorer.js").write_text(esm("explorer"))
    shutil.copy(CSS, folder)
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


def top_of(inputs, comparison, position, end="top"):
    return ends_of(inputs["comparison"][comparison].projections[:, position])[end]


@pytest.mark.browser
def test_view_begins_with_the_first_direction(page, inputs):
    assert shown(page) == top_of(inputs, "1_minus_2", 0)
    captions = page.locator(".mdx-end .mdx-class").all_text_contents()
    labels = inputs["test_split"].labels
    assert captions == [CLASS_NAMES[labels[i]] for i in shown(page)]


@pytest.mark.browser
def test_tiles_show_the_very_pixels(page, inputs):
    position = 3
    index = top_of(inputs, "1_minus_2", 0)[position]
    tile = page.locator(".mdx-end .mdx-picture").nth(position)
    # On whole pixels of the screen; elsewhere its rim would mix with what is around it.
    tile.evaluate("e => e.style.cssText += 'position: fixed; left: 0; top: 0'")
    png = tile.screenshot()
    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
    image = inputs["test_split"].images[index]
    np.testing.assert_array_equal(pixels, image.repeat(3, 0).repeat(3, 1))


@pytest.mark.browser
def test_clicks_and_arrows_choose_the_direction(page, inputs):
    before = shown(page)
    page.locator(".mdx-rung[data-direction='3']").click()
    assert chosen(page)[:2] == ["1_minus_2", 3]
    assert shown(page) == top_of(inputs, "1_minus_2", 2) != before
    page.keyboard.press("ArrowUp")
    assert chosen(page)[1] == 2
    assert page.locator(".mdx-rung:focus").get_attribute("data-direction") == "2"
    page.keyboard.press("End")
    page.keyboard.press("ArrowDown")  # there is none below
    assert chosen(page)[1] == 3


@pytest.mark.browser
def test_other_comparison_end_and_class(page, inputs):
    page.get_by_text("shifted ∖ fixed", exact=True).click()
    assert chosen(page)[:2] == ["2_minus_1", 4]  # its first direction is component 4
    assert "Direction #4" in page.locator(".mdx-status").inner_text()
    page.get_by_text("bottom", exact=True).click()
    assert shown(page) == top_of(inputs, "2_minus_1", 0, "bottom")
    page.get_by_label("Class").first.select_option("fish")
    labels = inputs["test_split"].labels
    order = np.argsort(inputs["comparison"]["2_minus_1"].projections[:, 0], kind="stable")
    assert shown(page) == [i for i in order if labels[i] == 1][:TOP_K]
    page.get_by_role("button", name="more of this direction").click()
    assert len(shown(page)) == 2 * TOP_K


def trained(page, row):
    """Training images in a row of the image that is looked at, by index."""
    buttons = page.locator(".mdx-detail .mdx-row").nth(row).locator("button").all()
    return [int(button.get_attribute("data-train")) for button in buttons]


@pytest.mark.browser
def test_clicked_image_shows_what_it_hangs_on_and_back(page, inputs):
    button = page.locator(".mdx-end button").nth(2)
    button.click()
    index = shown(page)[2]
    assert chosen(page)[3] == index
    assert button.get_attribute("aria-pressed") == "true"
    for number in (1, 2):
        order = np.argsort(-inputs[f"datamodels_{number}"].weights[index], kind="stable").tolist()
        assert trained(page, 2 * number - 2) == order[:6]
        assert trained(page, 2 * number - 1) == order[::-1][:6]
    page.locator(".mdx-detail [data-train]").first.click()
    one = page.evaluate("values.trainee")
    moved = page.locator(".mdx-detail .mdx-row").nth(0).locator("button").all()
    order = np.argsort(-inputs["datamodels_1"].weights[:, one], kind="stable")
    assert [int(b.get_attribute("data-index")) for b in moved] == order[:6].tolist()
    page.get_by_role("button", name=f"back to test image {index}").click()
    assert f"Test image {index}" in page.locator(".mdx-detail").inner_text()


@pytest.mark.browser
def test_arrows_move_within_a_grid_and_focus_is_kept(page):
    page.locator(".mdx-end button").first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    assert chosen(page)[3] == shown(page)[2]
    page.locator(".mdx-detail [data-train]").nth(1).focus()
    page.keyboard.press("Enter")  # what had the focus is gone: it stays in the panel
    assert page.evaluate("!!document.activeElement.closest('.mdx-detail')")
    page.get_by_role("tab", name="Directions").focus()
    page.keyboard.press("ArrowRight")
    assert page.evaluate("values.tab") == "images"
    assert page.evaluate("document.activeElement.dataset.tab") == "images"


def listed(page):
    buttons = page.locator(".mdx-panel.mdx-images .mdx-grid button").all()
    return [int(button.get_attribute("data-index")) for button in buttons]


@pytest.mark.browser
def test_all_images_are_sorted_filtered_and_found(page, inputs):
    page.get_by_role("tab", name="All images").click()
    assert listed(page) == list(range(48))
    page.get_by_role("button", name="later").click()
    assert listed(page) == list(range(48, 60))
    page.get_by_label("Sorted by").select_option("cosine")
    w = [inputs[f"datamodels_{a}"].weights for a in (1, 2)]
    cosines = (w[0] * w[1]).sum(1) / np.prod([np.linalg.norm(each, axis=1) for each in w], axis=0)
    assert listed(page)[:20] == np.argsort(cosines)[:20].tolist()
    page.get_by_label("Sorted by").select_option("difference")
    right = np.random.default_rng(2).uniform(size=(2, N_TEST))
    assert listed(page)[:9] == np.argsort(-np.abs(right[0] - right[1]))[:9].tolist()
    page.locator(".mdx-go input").fill("57")
    page.get_by_role("button", name="show", exact=True).click()
    assert chosen(page)[3] == 57
    assert 57 in listed(page)
    page.locator(".mdx-go input").fill("99")
    page.get_by_role("button", name="show", exact=True).click()
    assert chosen(page)[3] == 57


@pytest.mark.browser
def test_tests_show_effects_dose_by_dose(page):
    page.get_by_role("tab", name="Tests").click()
    panel = page.locator(".mdx-tests")
    said = "At 5 px, confidence in boat changes by: fixed +30.0 points (+25.0 to +35.0); shifted"
    assert said in panel.inner_text()
    page.get_by_label("How strongly").focus()
    page.keyboard.press("ArrowLeft")
    assert "At 3 px, confidence in boat changes by: fixed +10.0" in panel.inner_text()
    assert "its placebo" in panel.inner_text()
    tiles = panel.locator(".mdx-preview .mdx-row").nth(1).locator(".mdx-picture").all()
    assert [tile.get_attribute("data-tile") for tile in tiles] == ["2", "3"]
    page.get_by_role("button", name="ring → boat").click()
    assert page.evaluate("[values.hypothesis, values.dose]") == [1, -1]
    assert "It moves fixed." in panel.inner_text()


@pytest.mark.browser
def test_numbers_can_be_taken_along(page):
    with page.expect_download() as download:
        page.get_by_role("button", name="save as CSV").click()
    lines = download.value.path().read_text().splitlines()
    assert lines[0].startswith("rank,test image,class,projection on #1,cosine,")
    assert [int(line.split(",")[1]) for line in lines[1:]] == shown(page)


@pytest.fixture
def built(chromium, widget, tmp_path):
    """The view in a page without server and kernel, as the book has it."""
    state = {name: getattr(widget, name) for name in VIEW_TRAITS}
    body = host("explorer", state) + script("explorer")
    path = tmp_path / "built.html"
    css = CSS.read_text()
    path.write_text(f"<!doctype html><meta charset=utf-8><style>{css}</style>{body}")
    context = chromium.new_context(has_touch=True, viewport={"width": 400, "height": 800})
    page = context.new_page()
    faults = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.goto(path.as_uri())
    page.locator(".mdx-end").wait_for()
    yield page
    context.close()
    assert faults == []


@pytest.mark.browser
def test_a_link_brings_back_the_view_and_notes_are_kept(built):
    built.get_by_text("shifted ∖ fixed", exact=True).tap()
    built.locator(".mdx-rung[data-direction='1']").tap()
    built.locator(".mdx-end button").nth(1).tap()
    built.get_by_text("Notes", exact=True).tap()
    built.get_by_label("Notes").fill("looks like a tag")
    built.get_by_role("button", name="copy a link").tap()
    before = shown(built), built.locator(".mdx-detail").inner_text()
    address = built.evaluate("location.href")
    built.goto("about:blank")
    built.goto(address)
    built.locator(".mdx-end").wait_for()
    assert (shown(built), built.locator(".mdx-detail").inner_text()) == before
    assert built.get_by_label("Notes").input_value() == "looks like a tag"


@pytest.mark.browser
def test_targets_are_large_enough_for_a_finger(built):
    small = """() => [...document.querySelectorAll("button, select, summary, .mdx-choice span")]
        .filter(e => e.getClientRects().length)
        .map(e => [e.outerHTML.slice(0, 60), e.getBoundingClientRect()])
        .filter(([, box]) => box.width < 24 || box.height < 24)"""
    for tab in ("Directions", "All images", "Tests"):
        built.get_by_role("tab", name=tab).tap()
        assert built.evaluate(small) == []


@pytest.mark.browser
def test_a_printed_view_has_its_pictures(built):
    """Browsers leave backgrounds out of print; the tiles are the content."""
    with_pictures = len(built.pdf())
    built.add_style_tag(content=".mdx-picture { background-image: none !important }")
    assert with_pictures > len(built.pdf()) + 3000
    built.emulate_media(media="print")
    kept = (
        "[...document.querySelectorAll('.mdx *')].map((e) => getComputedStyle(e).printColorAdjust)"
    )
    assert set(built.evaluate(kept)) == {"exact"}
    built.emulate_media(media="screen")


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
    page.locator(".mdx-rung[data-direction='2']").click()
    assert page.locator(".mdx-evidence li").all_inner_texts() == [
        "a boat +0.40",
        "a <b>tag</b> +0.30",
    ]


@pytest.mark.browser
def test_changes_from_python_are_followed_until_the_view_closes(page, inputs):
    page.evaluate("model.set('direction', 3)")
    assert shown(page) == top_of(inputs, "1_minus_2", 2)
    page.evaluate("window.stop()")
    assert page.evaluate("left()") == 0


@pytest.mark.browser
@pytest.mark.parametrize("width", [400, 700, 1280])
def test_nothing_runs_over_the_side(page, width):
    page.set_viewport_size({"width": width, "height": 900})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    plot = page.locator(".mdx-ladder").bounding_box()
    images = page.locator(".mdx-end").bounding_box()
    assert (images["x"] < plot["x"] + plot["width"]) == (width == 400)


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
    assert explorer(**few).top_k == shown
