"""The book, built from small invented runs: assembly, messages, and the pages in a browser."""

import base64
import hashlib
import json
import re
from pathlib import Path

import pytest
import yaml
from browser import book_faults, chromium_path, offline_page, page_faults
from ipywidgets.embed import embed_data

from mdhelpers.book import build as book
from mdhelpers.book import pages as book_pages
from mdhelpers.runs.run import Run
from mdhelpers.show.explorer import explorer
from tests.show.test_explorer import parts

ROOT = Path(__file__).resolve().parents[2]
PAGES = tuple(sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb")))
RUN = {
    "study": "augmentation",
    "profile": "full",
    "n_models": 1024,
    "seed": 0,
    "commit": "0123abc",
    "date": "2026-01-02",
    "finished": "2026-01-02T03:04:05+00:00",
    "versions": {"mdhelpers": "0.1.0"},
    "algorithm_1": "fixed",
    "algorithm_2": "shifted",
}


def _cell(kind, source, outputs=(), tags=()):
    cell = {"cell_type": kind, "id": hashlib.md5(source.encode()).hexdigest()[:8]}
    cell |= {"metadata": {"tags": list(tags)} if tags else {}, "source": source}
    return cell if kind == "markdown" else cell | {"execution_count": 1, "outputs": list(outputs)}


def _output(**data):
    kind = {"output_type": "execute_result", "execution_count": 1, "metadata": {}}
    return kind | {"data": {key.replace("__", "/"): value for key, value in data.items()}}


def _png(width=900, height=300):
    from io import BytesIO

    from PIL import Image

    stream = BytesIO()
    Image.new("RGB", (width, height), "#c8553d").save(stream, "PNG")
    return stream.getvalue()


def _widget():
    """A small explorer, as a notebook saves it."""
    saved = embed_data(views=[explorer(**parts(), top_k=5)], drop_defaults=False)
    output = _output(text__plain="Explorer()")
    output["data"]["application/vnd.jupyter.widget-view+json"] = saved["view_specs"][0]
    return output, {"application/vnd.jupyter.widget-state+json": saved["manager_state"]}


def _notebook(name):
    image = base64.b64encode(_png()).decode()
    bar = {"output_type": "stream", "name": "stderr", "text": "\r 50%|###  | 1/2\r100%|####| 2/2\n"}
    table = "<table>" + "<tr>" + "<td>a wide cell</td>" * 40 + "</tr></table>"
    cells = [
        _cell("markdown", f"# {name}\n\nIs $\\theta$ sparse? $$\\min_\\theta \\|\\theta\\|_1$$"),
        _cell("code", "n: int = 1  # how many", tags=["parameters"]),
        _cell("code", "# Parameters\nn = 2\n", tags=["injected-parameters"]),
        _cell("code", "run = open_run(study)", [bar, _output(text__plain="0.5")]),
        _cell("code", "figure", [_output(image__png=image, text__plain="<Figure>")]),
        _cell("code", "table", [_output(text__html=table, text__plain="table")]),
    ]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = {"cells": cells, "nbformat": 4, "nbformat_minor": 5}
    notebook["metadata"] = {"kernelspec": kernel, "papermill": {"duration": 1.0}}
    if name.startswith("05"):
        output, notebook["metadata"]["widgets"] = _widget()
        cells.append(_cell("code", "explorer", [output]))
    return notebook


def _results(run):
    """Invent every figure of a run that the prose pages quote; records are the project's own."""
    results = {}
    for page in ROOT.glob("book/**/*.md"):
        if "_build" not in page.parts:
            for path, spec in book_pages._PLACEHOLDER.findall(page.read_text()):
                if not path.startswith("results."):
                    continue
                *parents, last = path.split(".")
                level = results
                for key in parents[1:]:
                    level = level.setdefault(key, {})
                level[last] = 0.5 if spec else "text"
    return results | {"run": results.get("run", {}) | run}


def make_run(runs, name, **changes):
    """Write an executed run as the runner leaves it."""
    folder = runs / name
    (folder / "notebooks").mkdir(parents=True)
    (folder / "figures").mkdir()
    for figure in ("landing", "method"):
        (folder / f"figures/{figure}.png").write_bytes(_png())
    (folder / "results.json").write_text(json.dumps(_results(RUN | changes)))
    for page in PAGES:
        (folder / f"notebooks/{page}.ipynb").write_text(json.dumps(_notebook(page)))
    return folder


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A smoke book of two runs."""
    here = tmp_path_factory.mktemp("book")
    make_run(here / "runs", "augmentation-smoke", profile="smoke")
    make_run(here / "runs", "cifar10_laptop", study="cifar10_laptop")
    out = here / "_build/html"
    book.build("augmentation", profile="smoke", runs_dir=here / "runs", out=out)
    return out


def _visible(path):
    return re.sub(r"<[^>]+>", " ", re.search(r"<article.*</article>", path.read_text(), re.S)[0])


@pytest.mark.slow
def test_a_page_that_quotes_a_run_says_which_and_smoke_pages_warn(built):
    for page in ("index", *PAGES):
        text = _visible(built / f"{page}.html")
        assert "Study augmentation · profile smoke · 2 × 1024 models · seed 0" in text
        assert "commit 0123abc · mdhelpers 0.1.0 · finished 2026-01-02" in text
        assert "its numbers are no findings" in text
    for page in PAGES:
        text = _visible(built / f"cifar10_laptop/{page}.html")
        assert "Study cifar10_laptop · profile full" in text
        assert "its numbers are no findings" not in text
    summary = (built / "cifar10_laptop/summary.html").read_text()
    assert "what was found" in summary
    assert "cifar10_laptop-landing" in summary
    for page in ("how_to_read", "your_own_data", "glossary", "references"):
        text = _visible(built / f"{page}.html")
        assert "Study augmentation · profile" not in text
        assert "Smoke run: small budget" not in text
    text = _visible(built / "other_pairs.html")
    assert "Smoke run: small budget" not in text
    assert "Study pretraining · 2 × 64 models · commit" in text
    assert "file nulls.json" in _visible(built / "can_findings_be_believed.html")


@pytest.mark.slow
def test_pages_show_outputs_but_no_progress_bars(built):
    page = (built / "01_data_prep.html").read_text()
    assert "0.5" in page
    assert "50%|" not in page
    assert "Not the defaults: n = 2" in page
    assert "{{" not in (built / "index.html").read_text()


@pytest.mark.slow
def test_no_page_names_a_script_or_style_elsewhere(built):
    pattern = re.compile(r"<(?:script|link|img)[^>]+(?:src|href)=\"(?:https?:)?//[^\"]+")
    for path in built.rglob("*.html"):
        assert not pattern.search(path.read_text()), path
        assert not re.search(r"jsdelivr|unpkg|cdnjs|googleapis", path.read_text()), path


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.skipif(chromium_path() is None, reason="no chromium on the PATH")
def test_the_book_is_whole_from_disk_without_a_network(built):
    names = ("index", "glossary", PAGES[4], f"cifar10_laptop/{PAGES[4]}")
    assert book_faults(built, [built / f"{name}.html" for name in names]) == []
    faults = []
    with offline_page(1280, faults) as page:
        page_faults(page, built / "05_subpopulation_inspection.html", 1280)
        page.click(".mdx-rung[data-direction='3']")
        assert "Direction #3" in page.inner_text(".mdx-status")
    assert faults == []


@pytest.mark.slow
def test_a_warning_of_sphinx_fails_the_build_every_time(tmp_path):
    run = make_run(tmp_path / "runs", "augmentation")
    broken = _notebook("01_data_prep")
    broken["cells"].append(_cell("markdown", "[nowhere](nowhere.md)"))
    (run / "notebooks/01_data_prep.ipynb").write_text(json.dumps(broken))
    for _ in range(2):
        with pytest.raises(RuntimeError, match=r"01_data_prep(.|\n)*nowhere"):
            book.build("augmentation", runs_dir=tmp_path / "runs", out=tmp_path / "_build/html")


def test_a_part_whose_run_is_missing_or_unfinished_is_left_out(tmp_path):
    runs = tmp_path / "runs"
    make_run(runs, "augmentation")
    other = make_run(runs, "cifar10_laptop", study="cifar10_laptop")
    run = Run("augmentation", runs_dir=runs)
    both = book.assemble(run, ROOT / "book")
    (other / "notebooks/07_counterfactual_verification.ipynb").unlink()
    one = book.assemble(run, ROOT / "book")
    assert {name for name in both if name.startswith("cifar10_laptop/")} == {
        "cifar10_laptop/summary.md",
        *(f"cifar10_laptop/{page}.ipynb" for page in PAGES),
    }
    assert b"cifar10_laptop" in both["_toc.yml"]
    assert b"cifar10_laptop" not in one["_toc.yml"]


def test_the_summary_of_a_run_without_its_picture_has_none(tmp_path):
    make_run(tmp_path, "augmentation")
    other = make_run(tmp_path, "cifar10_laptop", study="cifar10_laptop")
    run = Run("augmentation", runs_dir=tmp_path)
    summary = book.assemble(run, ROOT / "book")["cifar10_laptop/summary.md"]
    assert b"figures/cifar10_laptop-landing.png" in summary
    (other / "figures/landing.png").unlink()
    tree = book.assemble(run, ROOT / "book")
    assert b"{figure}" not in tree["cifar10_laptop/summary.md"]
    assert b"what was found" in tree["cifar10_laptop/summary.md"]


def test_parts_of_one_run_share_out_its_notebooks(tmp_path):
    make_run(tmp_path, "augmentation")
    tree = book.assemble(Run("augmentation", runs_dir=tmp_path), ROOT / "book")
    parts = yaml.safe_load(tree["_toc.yml"])["parts"]
    chapters = [[chapter["file"] for chapter in part["chapters"]] for part in parts]
    method, others = (part for part in chapters if part[0] in PAGES)
    assert method == [page for page in PAGES if page < "08"]
    assert others == [page for page in PAGES if page >= "08"]


def test_the_first_page_of_an_older_run_lacks_what_it_has_no_picture_of(tmp_path):
    run = make_run(tmp_path, "augmentation")
    with_it = book.assemble(Run("augmentation", runs_dir=tmp_path), ROOT / "book")
    (run / "figures/method.png").unlink()
    without = book.assemble(Run("augmentation", runs_dir=tmp_path), ROOT / "book")
    assert b"figures/method.png" in with_it["index.md"]
    assert b"figures/method.png" not in without["index.md"]
    assert b"figures/landing.png" in without["index.md"]
    assert b"Two commands" in without["index.md"]


def test_the_first_page_leads_to_binder_and_colab_where_it_was_asked_to(tmp_path):
    make_run(tmp_path, "augmentation")
    run, links = (
        Run("augmentation", runs_dir=tmp_path),
        {"binder": "https://b", "colab": "https://c"},
    )
    linked = book.assemble(run, ROOT / "book", links=links)["index.md"]
    assert b"this run in [Binder](https://b) or [Colab](https://c)" in linked
    alone = book.assemble(run, ROOT / "book")["index.md"]
    assert b"Binder" not in alone
    assert b"{{" not in alone


def test_a_page_quotes_the_papers_parameters_files(tmp_path):
    make_run(tmp_path, "augmentation")
    tree = book.assemble(Run("augmentation", runs_dir=tmp_path), ROOT / "book")
    page = tree["paper_studies.md"].decode()
    assert "{{" not in page
    assert "| models of each algorithm | 120,000; 50,000; 50,000 | 120,000 | 50,000 |" in page
    assert "| learning rate | 0.6, cyclic with its peak at epoch 12 | 0.6, `triangular`" in page


def test_only_what_changed_is_written_and_what_went_is_removed(tmp_path):
    assert not book._synchronise({"a.md": b"1", "folder/b.md": b"2"}, tmp_path)
    before = (tmp_path / "a.md").stat().st_mtime_ns
    assert book._synchronise({"a.md": b"1"}, tmp_path)
    assert (tmp_path / "a.md").stat().st_mtime_ns == before
    assert not (tmp_path / "folder/b.md").exists()
    # Of assets, Sphinx would leave the old copy beside the pages.
    assert not book._synchronise({"a.md": b"1", "assets/custom.css": b"x"}, tmp_path)
    assert not book._synchronise({"a.md": b"2", "assets/custom.css": b"x"}, tmp_path)
    assert book._synchronise({"a.md": b"2", "assets/custom.css": b"y"}, tmp_path)


@pytest.mark.parametrize("place", ["site/html/mine.html", "site/html-work/mine.md"])
def test_files_that_no_book_made_are_never_removed(tmp_path, place):
    make_run(tmp_path / "runs", "augmentation")
    mine = tmp_path / place
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    with pytest.raises(ValueError, match="do not bear a book's mark"):
        book.build("augmentation", runs_dir=tmp_path / "runs", out=tmp_path / "site/html")
    assert [path for path in tmp_path.glob("site/**/*") if path.is_file()] == [mine]


def test_pages_are_replaced_when_all_of_them_are_there(tmp_path, monkeypatch):
    out = tmp_path / "html"
    for folder, name in ((out, "old.html"), (tmp_path / "new", "new.html")):
        folder.mkdir()
        (folder / name).write_text(name)
    monkeypatch.setattr(book.shutil, "copytree", _full)
    with pytest.raises(OSError, match="full"):
        book._publish(tmp_path / "new", out, tmp_path / "webp")
    monkeypatch.undo()
    assert [path.name for path in out.iterdir()] == ["old.html"]
    book._publish(tmp_path / "new", out, tmp_path / "webp")
    assert sorted(path.name for path in out.iterdir()) == [book.MARK, "new.html"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["html", "new", "webp"]


def _full(*_, **__):
    raise OSError("the disk is full")


def test_a_page_that_is_not_what_was_executed_is_refused(tmp_path):
    folder = make_run(tmp_path, "augmentation")
    run, page = Run("augmentation", runs_dir=tmp_path), folder / f"notebooks/{PAGES[0]}.ipynb"
    entry = dict.fromkeys(("key", "source", "parameters", "version", "after", "stage_key"))
    entry["copy"] = hashlib.sha256(page.read_bytes()).hexdigest()
    (folder / "notebooks/keys.json").write_text(json.dumps({PAGES[0]: entry}))
    book.assemble(run, ROOT / "book")
    page.write_text(page.read_text().replace("0.5", "0.9"))
    with pytest.raises(ValueError, match=r"01_data_prep\.ipynb was changed since it was executed"):
        book.assemble(run, ROOT / "book")
    entry |= {"copy": None, "stage_key": "another"}
    (folder / "notebooks/keys.json").write_text(json.dumps({PAGES[0]: entry}))
    with pytest.raises(ValueError, match="shows results that were made anew since"):
        book.assemble(run, ROOT / "book")


def test_a_missing_run_names_the_command(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"mdhelpers run parameters/pets\.yaml -f .*smoke"):
        book.build("pets", profile="smoke", runs_dir=tmp_path, out=tmp_path / "html")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{{ results.04_x.gap | .2f }} %", "0.12 %"),
        ("{{results.run.study}}", "toy"),
        ("{{ results.04_x.rows.1 | +d }}", "+7"),
        ("no placeholder, { braces }", "no placeholder, { braces }"),
    ],
)
def test_figures_are_put_in(text, expected):
    results = {"run": {"study": "toy"}, "04_x": {"gap": 0.123, "rows": [5, 7]}}
    assert book_pages.expand(text, {"results": results}, page="p.md") == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{{ results.04_x.gop }}", r"p\.md: .*results\.04_x has no 'gop' \(it has gap, rows\)"),
        ("{{ resluts.04_x }}", r"p\.md: .*the top has no 'resluts'"),
        ("{{ results.04_x.rows.9 }}", r"no '9'"),
        ("{{ results.04_x.gap.more }}", r"results\.04_x\.gap has no 'more' \(it has no keys\)"),
        ("{{ results.04_x.rows | .2f }}", r"p\.md: .*which the format '\.2f' does not suit"),
    ],
)
def test_a_wrong_placeholder_names_page_and_key(text, message):
    results = {"04_x": {"gap": 0.123, "rows": [5, 7]}}
    with pytest.raises(ValueError, match=message):
        book_pages.expand(text, {"results": results}, page="p.md")


def test_results_without_provenance_are_refused(tmp_path):
    run = make_run(tmp_path, "augmentation")
    results = json.loads((run / "results.json").read_text())
    del results["run"]["seed"]
    (run / "results.json").write_text(json.dumps(results))
    with pytest.raises(ValueError, match=r"results\.json: the block 'run' lacks seed,"):
        book.assemble(Run("augmentation", runs_dir=tmp_path), ROOT / "book")


def test_the_run_of_a_stranger_says_nothing_that_comes_alive():
    facts = RUN | {"n_models": 1, "seed": 0, "profile": "<script>x</script>"}
    facts |= {"commit": "`{raw}`\n:::\n<img src=x onerror=y>", "study": "{{ jinja }} $x$"}
    header = book._header({"run": facts}, page="p.md")
    assert "script" in header
    assert not re.search(r"(?<!\\)[<>`$]|\{\{", header)
    fences = [line for line in header.splitlines() if line.startswith(":::")]
    assert fences == [":::{warning}", ":::", ":::{div} provenance", ":::"]


def test_vendored_files_are_those_listed_and_small_enough():
    folder = ROOT / "book/assets/vendor"
    table = (folder / "VENDOR.md").read_text()
    rows = dict(re.findall(r"^\| (\S+\.\w+) .*\| ([0-9a-f]{64}) \|$", table, re.M))
    licences = set(re.findall(r"LICENSE-[\w-]+", table))
    assert set(rows) | licences | {"VENDOR.md"} == {path.name for path in folder.iterdir()}
    for name, digest in rows.items():
        kept = (folder / name).read_bytes()
        assert hashlib.sha256(kept).hexdigest() == digest
        assert len(kept) < 150 * 1024
