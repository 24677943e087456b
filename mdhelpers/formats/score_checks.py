"""What must be known of attribution scores before they are used: orientation, units and sign.

A matrix of numbers says none of it. What a file's maker always writes is taken from there and held
against the sizes of the data; what only a person can know is asked for; and two checks against a
truth say whether the answer can be right: :func:`check_planted` and :func:`check_against_models`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from mdhelpers.method.datamodels import Datamodels

ORIENTATIONS = ("train_test", "test_train")
_CLEAR = 3.0  # standard errors


def resolve_orientation(
    path: Path,
    shape: tuple[int, int],
    *,
    maker: str | None = None,
    said: str | None = None,
    n_train: int | None = None,
    n_test: int | None = None,
) -> str:
    """Which axis of a score matrix is which: ``"train_test"`` or ``"test_train"``.

    Parameters
    ----------
    path : Path
        For messages.
    shape : tuple of int
    maker : str, optional
        The orientation that the format prescribes; None where none does.
    said : str, optional
        The user's word, which goes before the maker's.
    n_train, n_test : int, optional
        Sizes of the data.

    Raises
    ------
    ValueError
        If the shape is not of these sizes that way round, is square without the user's word, or
        cannot be told.
    """
    if said not in (None, *ORIENTATIONS):
        raise ValueError(f"orientation is {said!r}; expected one of {ORIENTATIONS}.")
    sizes = f"n_train={n_train}, n_test={n_test}"
    fits = {"train_test": _fits(shape, (n_train, n_test))}
    fits["test_train"] = _fits(shape, (n_test, n_train))
    if not any(fits.values()):
        raise ValueError(
            f"{path} has scores of shape {shape}, which is not of {sizes} either way round. Are "
            "they of other data?"
        )
    if said is None and shape[0] == shape[1]:
        raise ValueError(
            f"{path} has a square matrix of scores, {shape}: no size can tell its rows from its "
            "columns. Say which they are: orientation='train_test' where a row is a training "
            "example, 'test_train' where it is a test example."
        )
    told = said or maker or _only(fits)
    if told is None:
        raise ValueError(
            f"{path} has scores of shape {shape} and says nothing of its rows ({sizes}). Give "
            "n_train or n_test, or say orientation='train_test' or 'test_train'."
        )
    if not fits[told]:
        other = ORIENTATIONS[1 - ORIENTATIONS.index(told)]
        raise ValueError(
            f"{path} has scores of shape {shape}; {'you said' if said else 'its format is'} "
            f"{told}, and the data have {sizes}: rows and columns are swapped. If the file was "
            f"turned, say orientation='{other}'."
        )
    return told


def _fits(shape: tuple[int, int], sizes: tuple) -> bool:
    return all(size in (None, found) for found, size in zip(shape, sizes, strict=True))


def _only(fits: dict[str, bool]) -> str | None:
    possible = [orientation for orientation, fit in fits.items() if fit]
    return possible[0] if len(possible) == 1 else None


def check_finite(path: Path, weights: np.ndarray) -> None:
    """Raise a ValueError that names the first score that is not finite."""
    if np.isfinite(weights).all():
        return
    test, train = np.argwhere(~np.isfinite(weights))[0]
    raise ValueError(
        f"{path} has a score of {weights[test, train]} for training example {train} on test "
        f"example {test}; scores must be finite. Leave that test example out."
    )


def un_standardise(weights: np.ndarray, bias: np.ndarray, alpha) -> tuple[np.ndarray, np.ndarray]:
    r"""Weights and bias for 0/1 masks, from those for masks of mean 0 and variance 1.

    With :math:`\sigma = \sqrt{\alpha (1 - \alpha)}`, the standard deviation of a mask's entry,

    .. math:: w \leftarrow w / \sigma, \qquad b \leftarrow b - \alpha \sum_j w_j / \sigma .

    Parameters
    ----------
    weights : ndarray, shape (n_test, n_train)
    bias : ndarray, shape (n_test,)
    alpha : float or ndarray, shape (n_train,)
        Share of the models that saw a training example, in (0, 1).
    """
    alpha = _checked_alpha(alpha)
    raw = (weights / np.sqrt(alpha * (1 - alpha))).astype(np.float32)
    return raw, (bias - (raw * alpha).sum(1, dtype=np.float64)).astype(np.float32)


def standardise(weights: np.ndarray, bias: np.ndarray, alpha) -> tuple[np.ndarray, np.ndarray]:
    """Undo :func:`un_standardise`."""
    alpha = _checked_alpha(alpha)
    mean = bias + (weights * alpha).sum(1, dtype=np.float64)
    return (weights * np.sqrt(alpha * (1 - alpha))).astype(np.float32), mean.astype(np.float32)


def _checked_alpha(alpha) -> np.ndarray:
    alpha = np.asarray(alpha, np.float32)
    if not ((alpha > 0) & (alpha < 1)).all():
        raise ValueError(
            f"alpha is {alpha if alpha.ndim == 0 else alpha[(alpha <= 0) | (alpha >= 1)][0]}; "
            "expected the share of the training set in a mask, between 0 and 1."
        )
    return alpha


def check_planted(datamodels: Datamodels, pairs: np.ndarray) -> Datamodels:
    """Check the sign of scores by training examples that are sure to help.

    Such are copies of a test example planted in the training set, or, where training examples
    serve as test examples, each example itself. Their scores should be among the highest of their
    rows; with the sign reversed they are among the lowest.

    Parameters
    ----------
    datamodels : Datamodels
    pairs : ndarray, shape (n_pairs, 2), int
        Test example and training example that helps it.

    Returns
    -------
    Datamodels
        The same, with a note of what was found.

    Raises
    ------
    ValueError
        If these scores are lower than the others of their rows by three standard errors.
    """
    test, train = np.asarray(pairs).reshape(-1, 2).T
    rows = datamodels.weights[test]
    scores = rows[np.arange(len(rows)), train][:, None]
    places = (rows < scores).mean(1) + (rows == scores).mean(1) / 2
    errors = (places.mean() - 0.5) * np.sqrt(12 * len(places))
    found = f"{len(places)} examples that help stand at {places.mean():.2f} of their rows' scores"
    return _judged(datamodels, errors, f"{found} (1: highest)")


def check_against_models(
    datamodels: Datamodels, masks: np.ndarray, margins: np.ndarray
) -> Datamodels:
    """Check sign and units of scores by models whose masks and margins are known.

    Scores of the right sign correlate with the margins. The bias shows the units: one fitted with
    standardised masks is the mean margin itself, one in raw units is what a margin would be
    without any training example. Where weights sum to nearly zero, as they may when all masks are
    of one size, both are the same, and ``notes`` says that units could not be told.

    Parameters
    ----------
    datamodels : Datamodels
    masks : ndarray, shape (n_models, n_train), bool
    margins : ndarray, shape (n_models, n_test)

    Returns
    -------
    Datamodels
        The same, with a note of what was found.

    Raises
    ------
    ValueError
        If shapes disagree, the correlation is negative by three standard errors, or the bias is
        the mean margin where predictions from it are not.
    """
    margins = np.asarray(margins, np.float32)
    if margins.shape != (len(masks), len(datamodels.weights)):
        raise ValueError(
            f"margins have shape {margins.shape}; expected (n_models, n_test) = "
            f"{(len(masks), len(datamodels.weights))}, of the models of the masks."
        )
    without_bias = replace(datamodels, bias=np.zeros_like(datamodels.bias))
    scores = without_bias.predict(masks)
    units = _check_bias(datamodels.bias, scores, margins)
    correlation = _correlations(scores, margins).mean()
    # margins of one model move together, so that n_test of them may say no more than one
    errors = correlation * np.sqrt(len(masks) - 1)
    found = f"mean correlation {correlation:.2f} with the margins of {len(masks)} models"
    return _judged(replace(datamodels, notes=(*datamodels.notes, units)), errors, found)


def _check_bias(bias: np.ndarray, scores: np.ndarray, margins: np.ndarray) -> str:
    """Raise unless predictions are right on average; a note of what that says of the units."""
    if np.isnan(bias).any() or not bias.any():
        return "units could not be told: there is no bias"
    mean, spread = margins.mean(0), np.median(margins.std(0))
    far = max(0.1, 5 / np.sqrt(len(margins))) * spread
    gap, gap_of_bias = (np.median(np.abs(mean - p)) for p in (bias + scores.mean(0), bias))
    known = f"predictions lie {gap:.3g} from the mean margins, whose spread is {spread:.3g}"
    if gap > far and gap_of_bias <= far:
        raise ValueError(
            f"{known}, but the bias lies {gap_of_bias:.3g} from them: it was fitted with "
            "standardised masks. Read the scores with standardised=True and their alpha."
        )
    if gap > far:
        raise ValueError(
            f"{known}: the bias is not of these margins. Is it another output function "
            "(logsumexp), are these other data, or were raw weights read with standardised=True?"
        )
    told = "units checked" if gap_of_bias > far else "units could not be told (weights sum to 0)"
    return f"{told}: {known}"


def _judged(datamodels: Datamodels, errors: float, found: str) -> Datamodels:
    """Add what was found to the notes, or refuse scores that stand against the truth."""
    if errors < -_CLEAR:
        raise ValueError(
            f"the scores have the opposite sign: {found}. Read them with the other "
            "positive_means ('helps' or 'hurts'), or turn their sign."
        )
    verdict = "sign checked" if errors > _CLEAR else "the sign could not be told"
    return replace(datamodels, notes=(*datamodels.notes, f"{verdict}: {found}"))


def _correlations(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    x, y = x - x.mean(0), y - y.mean(0)
    spread = np.sqrt((x * x).sum(0) * (y * y).sum(0))
    return np.divide((x * y).sum(0), spread, out=np.zeros_like(spread), where=spread > 0)
