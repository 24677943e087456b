r"""What a model says about a test image, as the one number that datamodels predict.

Of logits ``z`` and the label ``y`` that is the correct-class margin or, in its place, the log-odds,

.. math:: z_y - \max_{k \neq y} z_k \qquad \text{or} \qquad
   z_y - \log \sum_{k \neq y} \exp z_k = \log \frac{p_y}{1 - p_y} .
"""

from __future__ import annotations

import math

import numpy as np
import torch


def correct_class_margins(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Logit of the label minus the largest other: (..., n) of (..., n, n_classes)."""
    index = labels.expand(logits.shape[:-1])[..., None]
    correct = logits.gather(-1, index)[..., 0]
    return correct - logits.scatter(-1, index, -math.inf).amax(-1)


def log_odds(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Log-odds of the label, log p_y - log(1 - p_y): (..., n) of (..., n, n_classes).

    With p the softmax of the logits that is the label's logit minus the logsumexp of the others.
    """
    index = labels.expand(logits.shape[:-1])[..., None]
    correct = logits.gather(-1, index)[..., 0]
    return correct - logits.scatter(-1, index, -math.inf).logsumexp(-1)


def is_right(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Whether the largest logit is the label's: (..., n) bool of (..., n, n_classes).

    A positive margin says the same, positive log-odds ask for more than half of the probability.
    """
    return correct_class_margins(logits, labels) > 0


def relative_to_class(margins: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Margins (n_models, n_test) less the model's mean margin over test images of the same class.

    A small model's seed makes it favour one class or another, which moves all margins of a class
    together. That is the largest noise that test images share; this removes it, and with it what a
    training image does to a class as a whole.
    """
    relative = margins.copy()
    for label in np.unique(labels):
        members = labels == label
        relative[:, members] -= margins[:, members].mean(axis=1, keepdims=True)
    return relative


def worst_group_accuracy(right: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Each model's accuracy on the group of test images where it is lowest.

    Parameters
    ----------
    right : ndarray, shape (n_models, n_test), bool
        Whether a model is right about an image.
    groups : ndarray, shape (n_test,)
        What each image belongs to, such as a class on a background.

    Returns
    -------
    ndarray, shape (n_models,), float64
    """
    return np.min([right[:, groups == group].mean(axis=1) for group in np.unique(groups)], axis=0)
