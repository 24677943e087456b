"""The page on scaling: its commands are ones that exist, and its arithmetic is right."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from mdhelpers.base.specs import validate
from mdhelpers.command.cli import app
from mdhelpers.command.estimates import GRADIENT_STEPS
from mdhelpers.command.files import scalar
from mdhelpers.stages.study import GradientSpec, Study
from mdhelpers.training.gradients import DIMENSION
from mdhelpers.training.workers.hosts import ClusterSpec

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "book" / "scaling.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", PAGE, re.DOTALL)
OVERLAYS = {
    text.splitlines()[0].removeprefix("# "): yaml.safe_load(text)
    for kind, text in BLOCKS
    if kind == "yaml"
}
COMMANDS = [
    shlex.split(line, comments=True)
    for kind, text in BLOCKS
    if kind == "bash"
    for line in text.replace("\\\n", " ").splitlines()
]
INLINE = [shlex.split(text) for text in re.findall(r"`(-p [^`]+)`", PAGE)]


def parameters_of(words: list[str]) -> dict:
    """What a command's ``-p`` and ``-f`` say, as `mdhelpers run` reads it."""
    given = {}
    for i, word in enumerate(words):
        if word == "-f":
            given |= OVERLAYS[words[i + 1]]
        if word == "-p":
            given[words[i + 1]] = scalar(words[i + 2])
    return given


def runs() -> list[list[str]]:
    return [words for words in COMMANDS if words[:2] == ["mdhelpers", "run"]]


def test_the_page_shows_every_kind_of_scheduler():
    schedulers = {parameters_of(words).get("scheduler", "local") for words in runs()}
    assert schedulers == {"local", "tcp://head:8786", "slurm"}


@pytest.mark.parametrize("words", [*runs(), *INLINE], ids=" ".join)
def test_parameters_are_the_study_s(words):
    study = yaml.safe_load((ROOT / "parameters" / "augmentation.yaml").read_text())
    validate(Study, study | parameters_of(words))


def test_wishes_to_slurm_are_known():
    (overlay,) = OVERLAYS.values()
    assert validate(ClusterSpec, overlay["cluster"], "cluster").gpus == 1
    for key in ("account", "interface", "python", "logs"):
        assert key in ClusterSpec.model_fields


def test_commands_are_mdhelpers_own():
    known = {command.name or command.callback.__name__ for command in app.registered_commands}
    assert {words[1] for words in COMMANDS if words[:1] == ["mdhelpers"]} <= known


def test_dask_knows_the_options_of_its_workers():
    pytest.importorskip("distributed")
    command = [sys.executable, "-m", "dask", "worker", "--help"]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    options = {w for words in COMMANDS if "worker" in words for w in words if w.startswith("--")}
    assert options == {"--nthreads", "--nworkers", "--resources"}
    assert all(option in told for option in options)


def table() -> list[list]:
    rows = re.findall(r"^\| ([^|]+, ResNet-\d+) \|(.+)\|$", PAGE, re.MULTILINE)
    return [
        [name, *(float(cell.replace(",", "")) for cell in cells.split("|"))] for name, cells in rows
    ]


@pytest.mark.parametrize("row", table(), ids=lambda row: row[0])
def test_the_arithmetic_of_the_paper_s_studies(row):
    _, models, epochs, n_train, n_test, rate, seconds, hours, masks, margins = row
    exact = epochs * n_train / 2 / rate
    assert seconds == round(exact)
    assert abs(hours - 2 * models * exact / 3600) <= 1
    assert masks == round(2 * models * n_train / 8 / 1e9, 1)
    assert margins == round(2 * models * n_test * 4 / 1e9, 1)


def few() -> list[list]:
    rows = re.findall(r"^\| ([^|]+) \| (two cores|a GPU) \|(.+)\|$", PAGE, re.MULTILINE)
    return [
        [f"{name}, {on}", *(float(cell.replace(",", "")) for cell in cells.split("|"))]
        for name, on, cells in rows
    ]


@pytest.mark.parametrize("row", few(), ids=lambda row: row[0])
def test_the_arithmetic_of_few_models_and_gradients(row):
    _, n_train, n_test, epochs, views, rate, training, gradients, together, on_eight = row
    seconds = epochs * n_train / 2 / rate
    looks = 3 * (views * n_train + n_test) * GRADIENT_STEPS / rate
    exact = np.array([2 * 128 * seconds, 2 * 64 * (seconds + looks)]) / 3600
    said = [training, gradients, together, on_eight]
    np.testing.assert_allclose(said, [*exact, exact.sum(), exact.sum() / 8], rtol=0.06)
    assert GradientSpec().models == Study.model_fields["n_models"].default == 64
    assert len(GradientSpec().at) == 3


def test_the_memory_of_gradients_is_what_they_hold():
    n_train, n_test, n_models = 50_000, 10_000, 64
    held = 4 * n_train * DIMENSION / 1e9
    scores = 4 * n_train * n_test / 1e9
    kept = 3 * 4 * (n_train + n_test) * DIMENSION / 1e9
    assert f"take {held:.1f} GB" in PAGE
    assert f"one model take {scores:.0f} GB" in PAGE
    assert f"gradients take {kept:.0f} GB" in PAGE.replace("\n", " ")
    assert f"{round(2 * n_models * (kept + scores), -1):.0f} GB" in PAGE


def test_the_table_has_the_paper_s_three_studies_and_their_days():
    assert len(table()) == 3
    hours = ", ".join(str(round(row[7] / 100)) for row in table()[:2])
    assert f"{hours} and {round(table()[2][7] / 100)} hours" in PAGE.replace("\n", " ")
