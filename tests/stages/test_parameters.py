"""What decides a stage's result is hashed under these keys: others would run old studies again."""

import hashlib

import pytest

from mdhelpers.runs import stage as names
from mdhelpers.runs.run import Run
from mdhelpers.stages.applications import apply_datamodels
from mdhelpers.stages.captions import caption_directions
from mdhelpers.stages.comparison import compare_algorithms
from mdhelpers.stages.data import prepare_data
from mdhelpers.stages.datamodels import fit_datamodels, measure_quality
from mdhelpers.stages.effect_models import train_on_all
from mdhelpers.stages.effects import verify_hypotheses
from mdhelpers.stages.models import train_models
from mdhelpers.stages.predictions import compare_predictions
from mdhelpers.stages.probes import probe_algorithms
from mdhelpers.stages.reweighting import tilt_directions
from mdhelpers.stages.subpopulations import inspect_subpopulations

OPTIONS = {
    "n_lams": 9, "lam_min_ratio": 0.1, "validation_share": 0.1, "patience": 5, "tol": 1e-4,
    "folds": 2, "lam_floor_ratio": 1e-4,
}  # fmt: skip
FITTED = {"method": "ridge", "relative": True, "seed": 0}
CASES = {
    "fits": (
        fit_datamodels, {"method": "ridge", "relative_to_class": False},
        (names.DATAMODELS, FITTED | {"relative": False}, [names.MODELS]),
    ),
    "fits of the lasso": (
        fit_datamodels, {"method": "lasso", "n_lams": 9, "lam_min_ratio": 0.1, "folds": 2},
        (names.DATAMODELS, FITTED | {"method": "lasso", "options": OPTIONS}, [names.MODELS]),
    ),
    "quality": (
        measure_quality, {"n_repeats": 3},
        (names.QUALITY, {"n_repeats": 3, "n_splits": 2, "seed": 0}, [names.DATAMODELS]),
    ),
    "comparison": (
        compare_algorithms, {"n_splits": 2, "n_null_splits": 1},
        (
            names.COMPARISON,
            {
                "n_directions": 8, "seed": 0, "n_splits": 2, "n_null_splits": 1, "top_k": 24,
                "only_below": 0.5, "alike_within": 1.5,
            },
            [names.MODELS, names.DATAMODELS],
        ),
    ),
    "subpopulations": (
        inspect_subpopulations, {"top_k": 5},
        (
            names.SUBPOPULATIONS, {"top_k": 5, "graded_against": "random directions"},
            [names.COMPARISON],
        ),
    ),
    "captions": (
        caption_directions, {"captions": {"model": "small"}, "steps": 7},
        (
            names.CAPTIONS,
            {
                "captions": {"model": "small", "pretrained": "", "bank": "", "top": 10},
                "seed": 0,
                "ranked_by": "z, with AUC and stability",
                "caption_steps": 7,
            },
            [names.SUBPOPULATIONS],
        ),
    ),
    "models of all data": (
        train_on_all, {"n_effect_models": 5},
        (names.ALL_DATA, {"n_effect_models": 5}, [names.MODELS]),
    ),
    "effects": (
        verify_hypotheses, {"hypotheses": [], "placebo": {}},
        (
            names.EFFECTS,
            {
                "hypotheses": [],
                "placebo": {"transformation": None, "intensities": []},
                "n_proposed": 1,
                "captions": {},
                "epsilon": 5.0,
                "delta": 10.0,
                "seed": 0,
            },
            [names.ALL_DATA, names.COMPARISON, names.SUBPOPULATIONS, names.CAPTIONS],
        ),
    ),
    "applications": (
        apply_datamodels,
        {"n_removal_tests": 3, "n_models_per_set": 4, "selection_targets": ["ring"]},
        (
            names.APPLICATIONS,
            {
                "algorithm": 1,
                "removal": {"n_tests": 3, "n_models": 4},
                "selection": {"targets": ["ring"], "sizes": [30, 60, 120], "n_models": 4},
                "n_clusters": 12,
                "seed": 0,
            },
            [names.MODELS, names.DATAMODELS],
        ),
    ),
    "predictions": (
        compare_predictions, {"n_reinitialised": 8},
        (
            names.PREDICTIONS, {"n_reinitialised": 8, "seed": 0},
            [names.MODELS, names.SUBPOPULATIONS],
        ),
    ),
    "tilts": (
        tilt_directions, {"n_tilted": 1, "n_random_tilts": 1, "n_tilt_pairs": 8},
        (
            names.TILTING,
            {
                "n_directions": 1, "n_random": 1, "n_pairs": 8, "seed": 0,
                "initialisations": "of each pair",
            },
            [names.MODELS, names.DATAMODELS, names.COMPARISON],
        ),
    ),
    "probes": (
        probe_algorithms, {"patch_size": 4, "patch_class": "boat", "n_levels": 3},
        (
            names.PROBES,
            {
                "patch": {"size": 4, "n_steps": 60, "class": "boat"},
                "scenes": {"n_swept": 90, "n_levels": 3, "n_crossed": 2000},
                "seed": 0,
            },
            [names.MODELS, names.ALL_DATA, names.EFFECTS],
        ),
    ),
}  # fmt: skip


class Asked(Exception):
    """Ends a stage once it has asked whether it is finished."""


@pytest.fixture
def asked(monkeypatch):
    found = []

    def stage(_, name, parameters, after=()):
        found.append((name, dict(parameters), list(after)))
        raise Asked

    monkeypatch.setattr(Run, "stage", stage)
    return found


@pytest.mark.parametrize("case", CASES)
def test_parameters_are_hashed_under_the_keys_that_old_runs_have(case, asked, tmp_path):
    function, given, wanted = CASES[case]
    with pytest.raises(Asked):
        function(Run("s", runs_dir=tmp_path), **given)
    assert asked == [wanted]


def test_what_decides_data_and_models_is_hashed_whole(asked, tmp_path):
    run = Run("s", runs_dir=tmp_path)
    with pytest.raises(Asked):
        prepare_data(run, {"kind": "scenes"})
    network = {"name": "a", "epochs": 1}
    sizes = {"n_models": 8, "n_heldout": 4, "n_kept": 2, "n_slots": 2}
    with pytest.raises(Asked):
        train_models(run, network, network | {"name": "b"}, **sizes)
    (data, of_data, _), (models, of_models, after) = asked
    assert (data, set(of_data)) == (names.DATA, {"dataset", "write_beton"})
    assert (models, after) == (names.MODELS, [names.DATA])
    assert [of_models.pop(f"algorithm_{a}")["name"] for a in (1, 2)] == ["a", "b"]
    sizes["n_effect_models"] = sizes.pop("n_kept")  # its name in older runs
    assert of_models == sizes | {
        "alpha": 0.5, "share_order": False, "stack": 0, "margins_dtype": "float32",
        "models_url": "", "models_1_given": {}, "models_2_given": {}, "seed": 0,
    }  # fmt: skip


def test_scores_made_elsewhere_are_hashed_by_their_contents(asked, tmp_path):
    (tmp_path / "one.pt").write_bytes(b"1")
    path = str(tmp_path / "one.pt")
    given = {"datamodels_1_path": path, "datamodels_2_path": path, "n_directions": 3}
    options = {"scores_options": {"orientation": "test_train"}}
    for more in ({}, options):
        with pytest.raises(Asked):
            compare_algorithms(Run("s", runs_dir=tmp_path), **given, **more)
    digest = hashlib.sha256(b"1").hexdigest()
    wanted = {"n_directions": 3, "seed": 0, "scores": [digest, digest]}
    assert asked == [(names.COMPARISON, wanted | more, []) for more in ({}, options)]
