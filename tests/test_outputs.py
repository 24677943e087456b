import numpy as np
import torch

from mdhelpers.outputs import correct_class_margins, relative_to_class


def test_margin_is_the_label_minus_the_largest_other():
    logits = torch.tensor([[[1.0, 4.0, 2.0], [3.0, 0.0, 2.5]]])
    margins = correct_class_margins(logits, torch.tensor([1, 2]))
    torch.testing.assert_close(margins, torch.tensor([[2.0, -0.5]]))


def test_relative_margins_forget_what_moves_a_whole_class():
    rng = np.random.default_rng(0)
    margins, labels = rng.normal(size=(5, 12)), np.arange(12) % 3
    bias = rng.normal(size=(5, 3))[:, labels]
    relative = relative_to_class(margins, labels)
    np.testing.assert_allclose(relative_to_class(margins + bias, labels), relative)
    for label in range(3):
        np.testing.assert_allclose(relative[:, labels == label].mean(axis=1), 0, atol=1e-12)
