from dataclasses import asdict

import pandas as pd
import pytest
from typer.testing import CliRunner

from mdhelpers.command import cli, estimates
from mdhelpers.method.learning_curves import Law
from mdhelpers.runs.run import Run, run_at
from mdhelpers.runs.stage import QUALITY
from mdhelpers.stages.datamodels import StudyQuality

LAWS = {1: Law(100, 0, 0.8), 2: Law(300, 0, 0.6)}


@pytest.fixture
def run(tmp_path) -> Run:
    """A run with known curves: 400 models, 1 and 3 seconds a model, two processes."""
    run = Run("s", runs_dir=tmp_path)
    finish_training(run, workers=2)
    rows = [
        asdict(law) | {"algorithm": a, "draw": draw} for a, law in LAWS.items() for draw in range(3)
    ]
    figures = {"seconds_a_model_1": 1.0, "seconds_a_model_2": 3.0}
    none = pd.DataFrame({"algorithm": []})
    tables = {"quality_curves": none, "quality_examples": none, "quality_laws": pd.DataFrame(rows)}
    run.stage(QUALITY, {}).keep(tables=tables, figures=figures)
    return run


def finish_training(run: Run, *, workers: int) -> None:
    figures = {"name_1": "a", "name_2": "b", "workers": workers, "n_models": 400}
    stage = run.stage("02_mask_training", {})
    stage.withdraw()
    stage.finish([], figures=figures)


def test_both_algorithms_get_the_models_that_the_slower_one_needs(run):
    (text,) = estimates.plan(run, cosine=0.8)
    # k / (1 - k) = 4 times the noise: 400 and 1200 models
    assert "a has it with the 400 models there are" in text
    assert "b needs about 1,200 (1,200 to 1,200)" in text
    # 800 more of each at 4 seconds, two at a time
    assert "Train about 800 more models of each algorithm, about 27 min" in text
    assert "(2 processes)" in text


def test_what_lies_above_the_plateau_cannot_be_reached(run):
    (text,) = estimates.plan(run, lds=0.7)
    assert "b cannot reach it, its curve levels off at an LDS of 0.60" in text
    assert "a (LDS 0.70) has it" in estimates.plan(run, lds=0.7)[0]
    (text,) = estimates.plan(run, lds=0.9)
    assert text.count("cannot reach it") == 2
    assert "Train" not in text


def test_far_beyond_what_was_measured_it_is_called_a_guess(run):
    (text,) = estimates.plan(run, cosine=0.95)
    assert "take it as a guess" in text
    assert "2.9 hours" in text  # 5300 models of 4 s, two at a time
    assert "guess" not in estimates.plan(run, cosine=0.8)[0]


def test_without_targets_it_names_f3s_cosine_and_most_of_the_plateau(run):
    cosine, share = estimates.plan(run)
    assert cosine.startswith("To reach a cosine of 0.9")
    assert share.startswith("To reach 95% of the LDS that infinitely many models would have")
    assert "b (LDS 0.57)" in share


def test_models_that_were_trained_elsewhere_have_no_rate(run):
    finish_training(run, workers=0)
    (text,) = estimates.plan(run, cosine=0.8)
    assert text.endswith("Train about 800 more models of each algorithm.")


def test_a_curve_of_noise_plans_nothing(run):
    laws = pd.read_parquet(run.folder / "quality_laws.parquet").iloc[:0]
    quality = StudyQuality(laws, laws, laws, {})
    assert "nothing stands out" in estimates.sentence(run, quality, {"cosine": 0.9})


@pytest.mark.parametrize(
    ("number", "text"), [(1234, "1,230"), (876, "880"), (98_765, "99,000"), (7, "7"), (0, "0")]
)
def test_numbers_are_rounded_as_far_as_they_count(number, text):
    assert estimates.about(number) == text


def test_the_command_prints_the_plan_of_a_runs_folder(run):
    done = CliRunner().invoke(cli.app, ["planner", str(run.folder), "--cosine", "0.8"])
    assert done.exit_code == 0, done.output
    assert "Train about 800" in " ".join(done.output.split())
    assert max(map(len, done.output.splitlines())) <= 80
    wrong = CliRunner().invoke(cli.app, ["planner", str(run.folder), "--lds", "1.4"])
    assert wrong.exit_code == 2
    nowhere = CliRunner().invoke(cli.app, ["planner", str(run.folder.parent / "x")])
    assert nowhere.exit_code == 2


def test_a_folder_gives_its_run(run, tmp_path):
    assert run_at(run.folder).study == "s"
    with pytest.raises(ValueError, match="holds no results"):
        run_at(tmp_path / "none")
    run.folder.rename(tmp_path / "t")
    with pytest.raises(ValueError, match="give the folder that name"):
        run_at(tmp_path / "t")
