"""The real notebooks, by papermill, on a study so small that it takes a minute or two."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import papermill
import pytest
import torch
import yaml
from nbclient import NotebookClient
from safetensors.numpy import load_file

from mdhelpers.command import launch
from mdhelpers.command.runner import run_study
from mdhelpers.runs.run import Run

ROOT = Path(__file__).parents[1]
WIDGET = "application/vnd.jupyter.widget-view+json"
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
TINY = {
    "study": "tiny",
    "profile": "test",
    "dataset": {"kind": "scenes", "size": 16, "n_train": 60, "n_test": 90, "share": 0.3},
    "algorithms": [  # three, so that no notebook is left out
        {"name": "one", "epochs": 2, "width": 4},
        {"name": "two", "epochs": 2, "width": 4, "augmentation": {"shift": 2}},
        {"name": "three", "epochs": 1, "width": 8},
    ],
    "n_models": 32,
    "n_heldout": 16,
    "n_slots": 2,
    "gradients": {"models": 8, "views": 1},
    "n_kept": 8, "n_effect_models": 4,
    "n_reinitialised": 4,
    "n_removal_tests": 2,
    "n_models_per_set": 2,
    "n_clusters": 3,
    "selection_sizes": [20],
    "n_directions": 3,
    "rotation": "varimax",
    "n_splits": 1,
    "n_null_splits": 1,
    "n_lams": 8,
    "top_k": 10,
    "patch_size": 4,
    "patch_steps": 4,
    "n_swept": 12,
    "n_levels": 2,
    "n_crossed": 150,
    "captions": {"model": "none"},
    "workers": 1,
    "hypotheses": [
        {"name": "tag", "transformation": "tag", "intensities": [4], "target_class": "boat",
         "uses": 1},
    ],
}  # fmt: skip

pytestmark = [pytest.mark.notebooks, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(TINY | {"runs_dir": str(folder / "runs")}))
    return path


@pytest.fixture(scope="module")
def run(study) -> Path:
    """All notebooks, executed."""
    run_study(study)
    return study.parent / "runs" / "tiny-test"


def test_notebooks_are_executed_and_leave_what_design_names(run):
    assert [path.name for path in sorted((run / "notebooks").glob("*.ipynb"))] == [
        path.name for path in NOTEBOOKS
    ]
    for name in (
        "data/dataset.json", "models_1.zarr", "models_2.zarr", "datamodels_1.safetensors",
        "datamodels_2.safetensors", "comparison.safetensors", "gaps.parquet", "null.parquet",
        "subpopulations.parquet", "grades.parquet", "effects.parquet", "verdicts.parquet",
        "figures/landing.png", "prediction_kinds.parquet", "predictions.safetensors",
        "patch_effects.parquet", "sweeps.parquet", "pairs.parquet", "backgrounds.parquet",
        "results.json",
    ):  # fmt: skip
        assert (run / name).exists(), name


def test_results_hold_every_stage_and_what_made_it(run):
    results = json.loads((run / "results.json").read_text())
    assert set(results) == {"run"} | {path.stem for path in NOTEBOOKS}
    assert results["run"]["profile"] == "test"
    assert results["02_mask_training"]["parameters"]["n_models"] == 32
    for stage in NOTEBOOKS:
        assert results[stage.stem]["seconds"] >= 0


def test_no_two_stages_write_the_same_file(run):
    written = [
        name
        for path in (run / "stages").glob("*.json")
        for name in json.loads(path.read_text())["outputs"]
    ]
    assert len(written) > 30
    assert sorted(written) == sorted(set(written))


def test_every_figure_is_drawn(run):
    figures = {}
    for path in sorted((run / "notebooks").glob("*.ipynb")):
        outputs = [o for c in nbformat.read(path, 4).cells for o in c.get("outputs", [])]
        figures[path.stem[:2]] = sum("image/png" in o.get("data", {}) for o in outputs)
    assert figures["06"] == 4
    assert min(figures.values()) >= 2


def test_running_again_starts_no_kernel(run, study, capsys):
    made = {path: path.stat().st_mtime_ns for path in (run / "notebooks").glob("*.ipynb")}
    run_study(study)
    assert capsys.readouterr().out.count("skipped (finished before)") == len(NOTEBOOKS)
    assert made == {path: path.stat().st_mtime_ns for path in made}


def test_the_run_is_explored_where_binder_and_colab_open_it(run, tmp_path, monkeypatch):
    monkeypatch.setattr(launch, "git_commit", lambda: "abc1234")
    place = tmp_path / "cloned"
    address = "https://github.com/someone/book"
    launch.launch_folder(
        Run("tiny", profile="test", runs_dir=run.parent), place, repository=address
    )
    notebook = nbformat.read(place / "explore.ipynb", 4)
    NotebookClient(notebook, resources={"metadata": {"path": str(place)}}).execute()
    shown = [o.data for c in notebook.cells for o in c.get("outputs", ()) if "data" in o]
    widgets = [data["text/plain"] for data in shown if WIDGET in data]
    assert [re.search("Explorer|VBox|Recompute", text)[0] for text in widgets] == [
        "Explorer", "VBox", "Recompute",
    ]  # fmt: skip
    assert len(list(place.glob("runs-*/tiny-test/results.json"))) == 1


@pytest.mark.usefixtures("run")
def test_one_notebook_by_plain_papermill_reads_what_is_finished(study, tmp_path):
    output = tmp_path / "out.ipynb"
    command = [sys.executable, "-m", "papermill", str(NOTEBOOKS[2]), str(output), "-f", str(study)]
    subprocess.run(command, check=True, capture_output=True, cwd=tmp_path)
    said = "".join(
        o.get("text", "") for c in nbformat.read(output, 4).cells for o in c.get("outputs", [])
    )
    assert "03_datamodel_fitting: finished before with these parameters" in said


def test_nothing_before_07_reads_the_truth_but_to_grade(run, study, tmp_path):
    """With the truth scrambled in the metadata, everything but grades stays the same."""
    for path in NOTEBOOKS[:5]:  # those that are compared
        shutil.copy(path, tmp_path)
    kept = {p: (run / p).read_bytes() for p in ("comparison.safetensors", "subpopulations.parquet")}
    table = run / "data" / "test_metadata.parquet"
    original = table.read_bytes()
    metadata = pd.read_parquet(table)
    features = [c for c in metadata.columns if c.startswith("feature_")]
    metadata[features] = metadata[features].sample(frac=1, random_state=0).to_numpy()
    metadata.to_parquet(table)
    data = Run("tiny", profile="test", runs_dir=run.parent).stage("01_data_prep", {})
    data.add_output(table)  # as if it had been written so: else it is refused as changed
    try:
        run_study(study, start="03", force=True, notebooks_dir=tmp_path)
        for path, content in kept.items():
            assert (run / path).read_bytes() == content
    finally:
        table.write_bytes(original)
        data.add_output(table)


def test_scores_made_elsewhere_give_the_directions_of_an_independent_pca(tmp_path):
    rng = np.random.default_rng(0)
    n_test, n_train = 70, 40
    thetas = [rng.normal(size=(n_test, n_train)).astype(np.float32) for _ in range(2)]
    shared = rng.normal(size=(n_test, n_train))
    for a, theta in enumerate(thetas):
        planted = np.outer(rng.normal(size=n_test), rng.normal(size=n_train))
        theta += (shared + (3 - a) * planted).astype(np.float32)
        theta[5 * a + 3] = 0  # as the lasso may leave it; such rows have no residual
        torch.save({"weight": torch.from_numpy(theta.T.copy())}, tmp_path / f"{a + 1}.pt")
    parameters = {
        "study": "scores",
        "profile": "full",
        "runs_dir": str(tmp_path / "runs"),
        "n_directions": 4,
        "datamodels_1_path": str(tmp_path / "1.pt"),
        "datamodels_2_path": str(tmp_path / "2.pt"),
    }
    papermill.execute_notebook(
        ROOT / "notebooks" / "04_residual_pca.ipynb",
        tmp_path / "out.ipynb",
        parameters=parameters,
        progress_bar=False,
    )
    found = load_file(tmp_path / "runs" / "scores" / "comparison.safetensors")
    thetas = [np.delete(theta, [3, 8], axis=0) for theta in thetas]
    for name, (one, two) in (("1_minus_2", thetas), ("2_minus_1", thetas[::-1])):
        want = principal_components(one, two)[:4]
        got = next(v for k, v in found.items() if name in k and k.endswith("directions"))
        assert (np.abs((got * want).sum(axis=1)) > 0.999).all()


def principal_components(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """Steps 1 to 3(i) of the paper with NumPy alone: (n_train, n_train), rows by variance."""
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (one, two))
    residuals = np.array([x - (x @ y) * y for x, y in zip(a, b, strict=True)])
    residuals -= residuals.mean(axis=0)
    return np.linalg.svd(residuals, full_matrices=False)[2]


def test_a_failing_stage_names_notebook_and_cell(study, tmp_path):
    from mdhelpers.command.execution import NotebookFailed

    for part in ("train", "test"):
        for name in ("cat", "dog"):
            (tmp_path / "pets" / part / name).mkdir(parents=True)
            for i in range(8):  # which only those who open them can tell
                (tmp_path / "pets" / part / name / f"{i}.png").write_bytes(b"no picture")
    with pytest.raises(NotebookFailed, match=r"(?s)01_data_prep failed in cell.*cannot be read"):
        run_study(
            study,
            parameters={
                "runs_dir": str(tmp_path / "runs"),
                "dataset": {"kind": "image_folder", "root": str(tmp_path / "pets")},
                "hypotheses": [],
                "top_k": 4,
                "selection_sizes": [4],
                "n_models": 32,
            },
            estimate=lambda _: {"models": 0, "seconds": 0, "bytes": 0},
        )


def test_plain_papermill_draws_figures_whatever_mplbackend_says(tmp_path, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "agg")
    source = ROOT / "notebooks" / "01_data_prep.ipynb"
    given = {"study": "s", "profile": "full", "runs_dir": str(tmp_path / "runs")}
    given["dataset"] = TINY["dataset"]
    papermill.execute_notebook(
        source, tmp_path / "out.ipynb", given, progress_bar=False, cwd=tmp_path
    )
    cells = nbformat.read(tmp_path / "out.ipynb", 4).cells
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 3
