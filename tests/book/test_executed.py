"""Executed notebooks as pages: captions, folds, tables, and what is left out."""

import base64
import re

import pytest

from mdhelpers.book.executed import (
    describe_figures,
    differences,
    first_sentence,
    publishable,
    with_folds,
    with_short_tables,
)
from tests.book.test_build import _notebook, _output, _png


def code(source: str, *, drawn: bool = False) -> dict:
    data = {"image/png": base64.b64encode(_png(width=990)).decode()}
    outputs = [{"output_type": "display_data", "data": data}] if drawn else []
    return {"cell_type": "code", "source": source, "metadata": {}, "outputs": outputs}


def test_figures_are_described_by_what_drew_them():
    cells = [
        code("from mdhelpers.show import comparison as show\nfrom mdhelpers.show import analyses"),
        {
            "cell_type": "markdown",
            "metadata": {},
            "source": "## T\n\nEach *point* is a model. More.",
        },
        code("fig, ax = plt.subplots()\nshow.explained_variance_scatter(ax, found)", drawn=True),
        code("analyses.similarity(found);", drawn=True),
        code("plt.plot([1])", drawn=True),
        code("%matplotlib inline", drawn=True),
        code("show.null_gaps(run)"),
    ]
    describe_figures(cells, "Study s.")
    said = [cell["metadata"].get("mystnb", {}).get("image", {}).get("alt") for cell in cells]
    assert said == [
        None,
        None,
        "How much each direction matters to either algorithm (paper, Figure 3, left).",
        "Mean cosines of both algorithms' datamodels, as measured and corrected for noise (F.1).",
        "Each point is a model.",
        "Each point is a model.",
        None,
    ]
    shown = cells[3]["metadata"]["mystnb"]
    assert shown["figure"]["caption"] == f"{said[3]} Study s."
    assert (shown["image"]["width"], shown["image"]["classes"]) == ("990px", "inches-9")
    cells[3]["outputs"][0]["metadata"] = {"image/png": {"width": 440, "height": 9}}
    describe_figures(cells)
    assert cells[3]["metadata"]["mystnb"]["image"]["classes"] == "inches-4"


def test_a_study_is_named_in_captions_as_it_is_written():
    cell = code("plt.plot(x)", drawn=True)
    describe_figures([cell], "Study my_pets, 2 × 64 models.")
    assert cell["metadata"]["mystnb"]["figure"]["caption"].endswith(
        r"Study my\_pets, 2 × 64 models."
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("# A\n\nSee [page 7](x.md), `q` and {term}`LDS`. More", "See page 7, q and LDS."),
        ("LDS of each test example, (n_test,) by name.", "LDS of each test example by name."),
        ("Of a figure (App. D). More.", "Of a figure (App. D)."),
        ("", ""),
    ],
)
def test_the_first_sentence_is_plain(text, said):
    assert first_sentence(text) == said


def test_setup_is_one_fold_and_code_lies_below_what_it_made():
    cells = [
        {"cell_type": "markdown", "metadata": {}, "source": "# T"},
        code("import numpy as np"),
        {"cell_type": "markdown", "metadata": {}, "source": "## Parameters\n\nLook."},
        code("n: int = 1  # how many") | {"metadata": {"tags": ["parameters"]}},
        code("# Parameters\nn = 2\n") | {"metadata": {"tags": ["injected-parameters"]}},
        code("run = open_run(study, profile=profile)"),
        code("found = compare(\n    run, seed=0\n)"),
        code("np.linalg.svd(x)"),
        code("show.figure(found)", drawn=True),
    ]
    folded = with_folds(cells)
    assert [c["source"] for c in folded[2:3] + folded[7:8]] == [cells[1]["source"], "</details>"]
    assert folded[1]["source"].startswith("<details")
    assert "Not the defaults: n = 2." in folded[1]["source"]
    assert folded[3]["source"] == "**Parameters**\n\nLook."
    hidden = [c["source"] for c in folded if "hide-input" in c["metadata"].get("tags", ())]
    assert hidden == [cells[6]["source"], cells[8]["source"]]
    assert differences(cells[3:4]) == "All parameters are the defaults."
    hostile = code("# Parameters\nname = '`</code><script>x</script>'")
    hostile |= {"metadata": {"tags": ["injected-parameters"]}}
    assert not re.search(r"(?<!\\)[<>`]", differences([hostile]))
    bare = [cells[0], code("1 + 1")]  # a notebook of someone's own
    assert with_folds(bare) == bare


def test_tables_have_true_minus_signs_and_show_their_first_rows():
    row = "<tr><th>a-1</th><td>-0.5 (-1.0 to 2)</td><td>2026-01-02</td><td>-0.0</td></tr>"
    page = f"<table class='dataframe'><tbody>{row}</tbody></table>"
    told = with_short_tables(page)
    assert told == page.replace("-0.5 (-1.0", "\u22120.5 (\u22121.0").replace("-0.0", "0.0")
    cells = "<td>32.000</td><td>0.300</td><td>True</td><td>NaN</td>"
    plain = "<td>32</td><td>0.300</td><td>yes</td><td>–</td>"
    assert with_short_tables(f"<table>{cells}</table>") == f"<table>{plain}</table>"
    many = with_short_tables(page.replace(row, 20 * row))
    assert many.count("<tr>") == 26
    assert "<summary>all 20 rows</summary>" in many
    assert with_short_tables("<p>-1</p>") == "<p>-1</p>"


def test_log_lines_are_left_out():
    notebook = _notebook("01")
    text = "04_residual_pca: running (never run)\nall models: 0.7\n"
    notebook["cells"][3]["outputs"] = [{"output_type": "stream", "name": "stdout", "text": text}]
    published = publishable(notebook, "", page="01")
    outputs = [o for c in published["cells"] for o in c.get("outputs", ())]
    assert outputs[0]["text"] == "all models: 0.7\n"


def test_a_text_is_shown_without_the_quotes_of_python():
    def shown(said: str) -> str:
        output = {"output_type": "execute_result", "data": {"text/plain": [said]}, "metadata": {}}
        cell = {"cell_type": "code", "source": "x", "outputs": [output], "metadata": {}}
        title = {"cell_type": "markdown", "source": "# T", "metadata": {}}
        notebook = {"cells": [title, cell | {"execution_count": 1}], "metadata": {}}
        made = publishable(notebook, "h", page="p")
        return made["cells"][-1]["outputs"][0]["data"]["text/plain"]

    assert shown(repr("it's <b>")) == "it's <b>"
    assert shown("(1, 2)") == ["(1, 2)"]


def test_the_header_replaces_the_provenance_that_a_cell_showed():
    notebook = _notebook("01")
    shown = _output(text__html='<div class="mdhelpers-provenance">Study toy</div>')
    notebook["cells"][3]["outputs"] = [shown]
    published = publishable(notebook, "HEADER", page="01")
    assert published["cells"][0]["source"].startswith("# 01\n\nHEADER\n")
    assert published["cells"][4]["outputs"] == []


def test_failed_and_unfinished_notebooks_are_refused():
    failed = _notebook("01")
    error = {"output_type": "error", "ename": "KeyError", "evalue": "'x'", "traceback": []}
    failed["cells"][3]["outputs"] = [error]
    with pytest.raises(ValueError, match=r"01: code cell 3 failed with KeyError"):
        publishable(failed, "", page="01")
    unfinished = _notebook("01")
    unfinished["cells"][3]["execution_count"] = None
    with pytest.raises(ValueError, match="code cell 3 was not run"):
        publishable(unfinished, "", page="01")


def test_other_messages_on_stderr_are_kept():
    notebook = _notebook("01")
    text = "a warning\n 10%|#    | 1/10\n"
    notebook["cells"][3]["outputs"] = [{"output_type": "stream", "name": "stderr", "text": text}]
    published = publishable(notebook, "", page="01")
    assert published["cells"][4]["outputs"][0]["text"] == "a warning\n"
    assert "papermill" in notebook["metadata"]
    assert "papermill" not in published["metadata"]
