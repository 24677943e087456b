"""Every numeric stage computes where it is told to, and on a CPU as it ever did."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from pretend_device import CARD, Card

from mdhelpers.analyses.model_counts import effect_of_model_count, fit_samples
from mdhelpers.analyses.similarity import directions_without, similarity, variance_curves
from mdhelpers.method import crossfit, datamodels
from mdhelpers.method.comparison import compare
from mdhelpers.method.datamodels import Fitter, fit_datamodels
from mdhelpers.method.engines import lasso, moments, principal
from mdhelpers.method.engines.estimators import FitOptions
from mdhelpers.method.evidence import Outputs, explained
from mdhelpers.method.learning_curves import learning_curve
from mdhelpers.method.trak import Look, model_scores, predicted_by_others
from mdhelpers.stages import datamodels as stage

N_MODELS, N_TRAIN, N_TEST = 64, 24, 30


@pytest.fixture(autouse=True)
def in_this_thread(monkeypatch):
    """A mode of torch's is a thread's own."""
    in_turn = lambda work, items, **_: map(work, items)  # noqa: E731
    monkeypatch.setattr(datamodels, "spread", in_turn)


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    masks = rng.random((N_MODELS, N_TRAIN)).argsort(1) < N_TRAIN // 2
    shared = rng.normal(size=(N_TEST, N_TRAIN))
    truth = [shared + 0.5 * rng.normal(size=shared.shape) for _ in range(2)]
    noise = 0.3 * rng.normal(size=(2, N_MODELS, N_TEST))
    margins = [(masks @ t.T + n).astype(np.float32) for t, n in zip(truth, noise, strict=True)]
    scores = [(t + rng.normal(size=(N_MODELS, *t.shape))).astype(np.float32) for t in truth]
    return masks, margins, scores, [t.astype(np.float32) for t in truth]


def same(first, second, **tolerance) -> None:
    """Tables, arrays and what holds them, alike."""
    if isinstance(first, pd.DataFrame):
        pd.testing.assert_frame_equal(first, second, check_exact=not tolerance, **tolerance)
    elif isinstance(first, np.ndarray):
        np.testing.assert_allclose(first, second, **tolerance or {"rtol": 0, "atol": 0})
    else:
        parts = vars(first).values() if hasattr(first, "__dict__") else first
        others = vars(second).values() if hasattr(second, "__dict__") else second
        for one, two in zip(parts, others, strict=True):
            if isinstance(one, pd.DataFrame | np.ndarray) or hasattr(one, "__dict__"):
                same(one, two, **tolerance)


def on_card(work):
    """What ``work(device)`` gives on the card, of which nothing costly may stay on the host."""
    with Card() as card:
        found = work(CARD)
    assert card.on_card
    assert not card.on_host
    return found


def test_the_pretended_device_refuses_what_a_gpu_refuses():
    with Card():
        there = torch.zeros(3, device=CARD)
        assert there.device.type == CARD
        for wrong in (lambda: there + torch.ones(3), lambda: torch.ones(3)[there > 0]):
            with pytest.raises(RuntimeError, match="two devices"):
                wrong()
        with pytest.raises((RuntimeError, TypeError)):
            there.numpy()
        assert (there + 1)[torch.tensor([0, 2])].cpu().tolist() == [1, 1]


@pytest.mark.parametrize("method", ["ridge", "difference_of_means", "trak", "trak+ridge", "lasso"])
@pytest.mark.parametrize("slots", [None, np.arange(N_MODELS) % 4])
def test_fits(data, method, slots, monkeypatch):
    masks, margins, scores, _ = data
    for engine in (lasso, moments):  # the one that a GPU has, on both
        monkeypatch.setattr(engine, "can_compile", lambda: False)
    mean = scores[0].mean(0) if method.startswith("trak") else None

    def work(device: str):
        return fit_datamodels(
            masks, margins[0], method=method, slots=slots, scores=mean, device=device
        )

    same(work("cpu").weights, on_card(work).weights, atol=1e-5)


@pytest.mark.parametrize("by_gradients", [False, True])
@pytest.mark.parametrize("slots", [None, np.arange(N_MODELS) % 32])
def test_cross_fits_evidence_and_uses(data, by_gradients, slots):
    masks, margins, scores, truth = data
    comparison = compare(*truth, n_directions=3)
    labels = np.arange(N_TEST) % 2

    def work(device: str):
        about = {"method": "ridge", "slots": slots, "device": device}
        fits = [
            Fitter(masks, m, scores=s[:48] if by_gradients else None, **about)
            for m, s in zip(margins, scores, strict=True)
        ]
        given = {"slots": slots, "n_directions": 3, "n_splits": 2}
        beside = {"labels": labels, "top_k": 5, "comparison": comparison}
        return crossfit.cross_fitted_gaps(*fits, N_MODELS, **given, **beside)

    there = on_card(work)
    assert len(there.uses)
    assert there.directions["p"].notna().all()
    same(work("cpu"), there, rtol=1e-3, atol=1e-4)


def test_the_null(data):
    masks, margins, *_ = data

    def work(device: str):
        fits = [Fitter(masks, m, method="ridge", device=device) for m in margins]
        return crossfit.null_gaps(*fits, N_MODELS, n_directions=2, n_splits=1)

    same(work("cpu"), on_card(work), rtol=1e-3, atol=1e-5)


def test_learning_curves(data):
    masks, margins, *_ = data
    heldout = masks[:16], margins[0][:16]

    def work(device: str):
        fit = Fitter(masks, margins[0], method="ridge", device=device)
        full = fit(np.arange(N_MODELS))
        return learning_curve(fit, full, heldout, n_models=N_MODELS, n_bootstrap=5)

    same(work("cpu"), on_card(work), rtol=1e-4, atol=1e-5)


ANALYSES = {
    "comparison": lambda one, two, **on: compare(one, two, n_directions=3, **on),
    "similarity": lambda one, two, **on: similarity({"1": one, "2": two}, **on),
    "curves": lambda one, two, **on: variance_curves(one, two, n_components=3, **on),
    "curves elsewhere": lambda one, two, **on: variance_curves(
        one, two, measured_on=(two, one), n_components=3, **on
    ),
    "without some": lambda one, two, **on: directions_without(
        one, two, np.arange(N_TEST) % 5 > 0, compare(one, two, n_directions=2), n_random=1, **on
    ),
}


@pytest.mark.parametrize("name", ANALYSES)
def test_comparisons_and_analyses(data, name):
    one, two = data[3]
    work = ANALYSES[name]
    with Card() as card:
        there = work(one, two, device=CARD)
    assert card.on_card or name == "similarity"  # cosines take no product of matrices
    if name != "without some":  # the comparison that it is given is made beside it
        assert not card.on_host
    same(work(one, two), there, rtol=1e-4, atol=1e-5)
    same(work(one, two), work(one, two, device="cpu"))


def test_components_that_are_iterated_for(monkeypatch):
    monkeypatch.setattr(principal, "EXACT_UP_TO", 64)
    rng = np.random.default_rng(2)
    one = rng.normal(size=(120, 3)) @ rng.normal(size=(3, 100)) + 0.05 * rng.normal(size=(120, 100))
    two = one + 0.5 * rng.normal(size=(120, 2)) @ rng.normal(size=(2, 100))
    work = lambda device: compare(one, two, n_directions=2, device=device)  # noqa: E731
    same(work("cpu"), on_card(work), rtol=1e-3, atol=1e-4)


def test_model_counts(data):
    masks, margins, *_ = data

    def work(device: str):
        fits = [Fitter(masks, m, method="ridge", device=device) for m in margins]
        samples = fit_samples(*fits, N_MODELS, sizes=[16, 32])
        return effect_of_model_count(samples, n_directions=2, n_components=3, device=device)

    same(work("cpu"), on_card(work), rtol=1e-3, atol=1e-4)


def test_stages_fit_where_the_models_of_a_study_are(data, monkeypatch):
    masks, margins, *_ = data
    monkeypatch.setattr(stage, "fit_memory", lambda device: {"cuda:1": 80e9}[device])
    plan = SimpleNamespace(here="cuda:1", n_train=N_TRAIN, n_test=N_TEST)
    models = SimpleNamespace(plan=plan, outputs=lambda *_: margins[0], slots=lambda _: None)
    how = stage.HowFitted("ridge", False, FitOptions(), 0)
    fitter = how.fitter(models, SimpleNamespace(masks=masks))
    assert (fitter.device, fitter.memory) == ("cuda:1", 80e9)
    assert fitter.at_once(32) == how.at_once(models, 32, at_most=2) == 1


def test_scores_from_gradients():
    rng = np.random.default_rng(1)
    draw = lambda *shape: rng.normal(size=shape).astype(np.float32)  # noqa: E731
    looks = [[Look(draw(9, 7), draw(8, 7), np.abs(draw(7)))] * 2 for _ in range(3)]
    masks = rng.random((3, 8)) < 0.5
    for work in (
        lambda device: model_scores(looks[0], 0.1, device=device),
        lambda device: predicted_by_others(iter(looks), masks, 0.1, device=device),
    ):
        same(work("cpu"), on_card(work), atol=1e-5)
    by_hand = sum(
        (look.test / (look.values + 0.1 * look.values.sum() / 8)) @ look.train.T
        for look in looks[0]
    )
    np.testing.assert_allclose(model_scores(looks[0], 0.1), by_hand, rtol=1e-5, atol=1e-6)


def test_evidence_of_outputs_holds_them_on_the_device(data):
    masks, margins, _, truth = data
    directions = np.linalg.qr(truth[0].T)[0][:, :2].T.astype(np.float32)

    def work(device: str):
        outputs = Outputs.measured(masks, margins[0], np.ones(N_TEST), device=device)
        assert outputs.device.type == device
        return explained(outputs, directions)

    same(work("cpu"), on_card(work), rtol=1e-4)
