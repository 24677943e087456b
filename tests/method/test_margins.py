import numpy as np
import pytest
import torch
from scipy.special import logit

from mdhelpers.method.margins import (
    correct_class_margins,
    is_right,
    relative_to_class,
    worst_group_accuracy,
)
from mdhelpers.training.algorithms import parse_algorithm
from mdhelpers.training.learners import margins_of

FOREST = parse_algorithm({"kind": "sklearn", "name": "f", "classifier": "RandomForestClassifier"})
FUNCTION = parse_algorithm({"kind": "python", "name": "p", "function": "module:function"})
NETWORK = parse_algorithm({"name": "n"})


def test_margin_is_the_label_minus_the_largest_other():
    logits = torch.tensor([[[1.0, 4.0, 2.0], [3.0, 0.0, 2.5]]])
    margins = correct_class_margins(logits, torch.tensor([1, 2]))
    torch.testing.assert_close(margins, torch.tensor([[2.0, -0.5]]))


@pytest.mark.parametrize("shift", [0.0, 5.0])
def test_a_classifier_is_measured_by_log_odds(shift):
    probabilities = np.random.default_rng(0).dirichlet(np.ones(4), size=(2, 30))
    labels = torch.arange(30) % 4
    logits = torch.tensor(np.log(probabilities)) + shift
    found = margins_of(FOREST, logits, labels)
    wanted = logit(probabilities[:, np.arange(30), labels])
    np.testing.assert_allclose(found, wanted, rtol=1e-9)
    assert found.dtype == torch.float64


def test_networks_and_functions_are_measured_by_margins():
    logits = torch.randn(2, 30, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(30) % 4
    for spec in (NETWORK, FUNCTION):
        assert torch.equal(margins_of(spec, logits, labels), correct_class_margins(logits, labels))


def test_two_classes_have_one_measure():
    logits, labels = torch.tensor([[[2.0, -1.0], [0.5, 3.0]]]), torch.tensor([0, 0])
    torch.testing.assert_close(
        margins_of(FOREST, logits, labels), margins_of(NETWORK, logits, labels)
    )


def test_the_largest_logit_is_right_even_below_even_odds():
    logits, labels = torch.tensor([[0.4, 0.3, 0.3], [0.3, 0.4, 0.3]]).log(), torch.tensor([0, 0])
    assert is_right(logits, labels).tolist() == [True, False]
    assert (margins_of(FOREST, logits, labels) < 0).all()


def test_the_worst_group_is_each_models_own():
    right = np.array([[1, 1, 1, 0, 0, 1], [0, 1, 1, 1, 1, 1]], bool)
    groups = np.array(["a", "a", "b", "b", "c", "c"])
    assert worst_group_accuracy(right, groups).tolist() == [0.5, 0.5]
    assert worst_group_accuracy(right[:, 2:5], groups[2:5]).tolist() == [0.0, 1.0]


def test_relative_margins_forget_what_moves_a_whole_class():
    rng = np.random.default_rng(0)
    margins, labels = rng.normal(size=(5, 12)), np.arange(12) % 3
    bias = rng.normal(size=(5, 3))[:, labels]
    relative = relative_to_class(margins, labels)
    np.testing.assert_allclose(relative_to_class(margins + bias, labels), relative)
    for label in range(3):
        np.testing.assert_allclose(relative[:, labels == label].mean(axis=1), 0, atol=1e-12)
