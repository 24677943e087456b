"""Attribution scores made elsewhere, read as datamodels.

One reader a format: ModelDiff's and the datamodels release's ``.pt`` (:func:`read_pt`), TRAK's
``.mmap`` and kronfluence's ``.safetensors`` (:mod:`mdhelpers.influence_scores`), and matrices of
no maker in ``.npy`` (:func:`read_npy`). Each turns what it reads to (n_test, n_train) and to the
sign at which a positive score raises the correct-class output, says in ``notes`` what it did and
on whose word, and refuses what it cannot tell. Nothing is unpickled but tensors.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mdhelpers.datamodels import Datamodels, load_datamodels
from mdhelpers.influence_scores import read_kronfluence, read_trak
from mdhelpers.npy_files import open_npy
from mdhelpers.score_checks import check_finite, resolve_orientation, un_standardise
from mdhelpers.score_files import (
    HELPS,
    ODD,
    imported,
    read_metadata,
    read_safetensors,
    read_shapes,
    read_tensors,
    sign_of,
    to_array,
    to_matrix,
    turned,
)

__all__ = ["load_scores", "read_kronfluence", "read_npy", "read_pt", "read_trak"]

UNKNOWN = "unknown"


def load_scores(
    path: str | Path, *, n_train: int | None = None, n_test: int | None = None, **said
) -> Datamodels:
    """Read attribution scores of any known format, for the comparison of stage 04.

    The comparison divides each row by its length, so it does not mind the units as long as all
    masks had the same alpha. Where they are not told, weights are left as they are, ``notes`` says
    so, and ``bias`` is NaN, so that nothing can be predicted with weights of unknown units.

    Parameters
    ----------
    path : str or Path
        ``.pt``, ``.pth``, ``.mmap``, ``.npy`` or ``.safetensors``, or the ``save_dir`` of TRAK.
    n_train, n_test : int, optional
        Sizes that the scores should have.
    **said
        What the file does not say, by the keywords of its reader: ``orientation``,
        ``standardised``, ``alpha``, ``positive_means``, ``finalized``.

    Returns
    -------
    Datamodels
        With NaN ``lam`` where the file has none.

    Raises
    ------
    ValueError
        If the file is of no known format, or where its reader raises one.
    """
    path = Path(path)
    if not path.exists():
        raise ValueError(f"{path} is not a file; expected attribution scores. Check the path.")
    reader, keywords = score_reader(path)
    if strange := sorted(set(said) - set(keywords)):
        raise ValueError(
            f"{strange} cannot be said of {path}; expected {keywords or 'nothing more'}."
        )
    if "standardised" in keywords:
        said = {"standardised": UNKNOWN} | said
    return reader(path, n_train=n_train, n_test=n_test, **said)


WORDS = ("orientation", "positive_means", "finalized", "standardised", "n_train")


def scores_of_study(path: Path, options: dict, **sizes: int) -> Datamodels:
    """Scores as a study names them; a word that is missing is asked for by the study's own key."""
    try:
        return load_scores(path, **sizes | options)
    except ValueError as error:
        told = any(word in str(error) for word in WORDS)
        how = " In a study such words stand under scores_options: {positive_means: helps}, say."
        raise ValueError(f"{error}{how if told else ''}") from error


def score_reader(path: Path) -> tuple:
    """The function that reads a file, and what a user can tell it."""
    kronfluence = read_kronfluence, ("orientation", "positive_means")
    if path.is_dir() or path.suffix == ".mmap":
        return read_trak, ("orientation", "finalized")
    if path.suffix == ".npy":
        return read_npy, ("orientation", "positive_means", "standardised", "alpha")
    if path.suffix == ".safetensors":
        return (_read_own, ()) if "method" in read_metadata(path) else kronfluence
    if path.suffix not in (".pt", ".pth"):
        raise ValueError(
            f"{path} ends in {path.suffix!r}; expected .pt or .pth (ModelDiff, datamodels), .mmap "
            "(TRAK), .safetensors (kronfluence, or datamodels of this package) or .npy."
        )
    if "all_modules" in read_tensors(path):
        return kronfluence
    return read_pt, ("orientation", "standardised", "alpha")


def _read_own(path: Path, *, n_train: int | None, n_test: int | None) -> Datamodels:
    shape = _own_shape(path)  # before the weights, which a few bytes can claim to fill a disk
    if n_test not in (None, shape[0]) or n_train not in (None, shape[1]):
        raise ValueError(
            f"{path} holds datamodels of shape {shape}; expected (n_test, n_train) = "
            f"({n_test}, {n_train}). Are they of other data?"
        )
    try:
        datamodels = load_datamodels(path)
    except ODD as error:
        named = str(error) if str(path) in str(error) else f"{path} is damaged ({error})"
        raise ValueError(named) from error
    if datamodels.weights.shape != shape:
        raise ValueError(f"{path} says {shape} and holds weights of {datamodels.weights.shape}")
    check_finite(path, datamodels.weights)
    return datamodels


def _own_shape(path: Path) -> tuple[int, ...]:
    """The shape that a file of this package gives its weights, (n_test, n_train)."""
    shapes = read_shapes(path, "weights", "weights_shape")
    if "weights" not in shapes and shapes.get("weights_shape") == (2,):
        shapes["weights"] = tuple(read_safetensors(path)[0]["weights_shape"].tolist())
    if len(shapes.get("weights", ())) != 2:
        raise ValueError(f"{path} holds no weights of two dimensions; expected datamodels.")
    return shapes["weights"]


def read_pt(
    path: str | Path,
    *,
    standardised: bool | str | None = None,
    alpha: float | np.ndarray | None = None,
    orientation: str | None = None,
    n_train: int | None = None,
    n_test: int | None = None,
) -> Datamodels:
    """Read ``weight``, ``bias`` and ``lam`` as ModelDiff and the datamodels release keep them.

    Parameters
    ----------
    path : str or Path
        A dictionary of tensors, ``weight`` of shape (n_train, n_test).
    standardised : bool or "unknown", optional
        Whether masks were scaled to mean 0 and variance 1 for the fit, as fast_l1 does and leaves.
        Files of `mdhelpers.exporters.export_pt` say it themselves.
    alpha : float or ndarray, shape (n_train,), optional
        Share of the training set in a mask, needed to un-standardise; or, more exactly, the share
        of the models that saw each training example.
    orientation : {"train_test", "test_train"}, optional
        What a row and a column are, where the file is square or was turned.
    n_train, n_test : int, optional
        Sizes that the scores should have.

    Returns
    -------
    Datamodels
        In raw 0/1 mask units; zero ``bias`` and NaN ``lam`` where the file has none.

    Raises
    ------
    ValueError
        If the file holds code or no ``weight``, units or orientation cannot be told, its shape is
        not of the sizes given, or a score is not finite.
    """
    path = Path(path)
    content = read_tensors(path)
    if "weight" not in content:
        raise ValueError(
            f"{path} holds {sorted(map(str, content))}; expected a dictionary with the key "
            "'weight', a tensor of shape (n_train, n_test)."
        )
    standardised = _agreed(path, content, "standardised", standardised)
    alpha = _agreed(path, content, "alpha", alpha)
    matrix = to_matrix(path, "weight", content["weight"])
    said = orientation or ("train_test" if _noted(path, content, "train_test") else None)
    sizes = {"n_train": n_train, "n_test": n_test}
    told = resolve_orientation(path, matrix.shape, maker="train_test", said=said, **sizes)
    weights, note = turned(path, matrix, told)
    bias, lam = (_vector(path, content, name, len(weights)) for name in ("bias", "lam"))
    weights, bias, units = _to_raw_units(path, weights, bias, standardised, alpha)
    words = f"{HELPS}, as the maker writes it", "output: correct-class margin, as the maker says"
    return imported(weights, note, units, *words, bias=bias, lam=lam)


def read_npy(
    path: str | Path,
    *,
    positive_means: str | None = None,
    standardised: bool | str | None = None,
    alpha: float | np.ndarray | None = None,
    orientation: str | None = None,
    n_train: int | None = None,
    n_test: int | None = None,
) -> Datamodels:
    """Read a matrix of scores that says nothing of itself, as `export_weights` writes.

    Parameters
    ----------
    path : str or Path
    positive_means : {"helps", "hurts"}
        Whether a training example with a positive score raises or lowers the output.
    standardised, alpha, orientation, n_train, n_test
        As for :func:`read_pt`; the orientation must be given, or follow from the sizes.

    Raises
    ------
    ValueError
        As for :func:`read_pt`, and if the sign is not told.
    """
    path = Path(path)
    matrix = open_npy(path, ("n_test", "n_train"))
    sizes = {"n_train": n_train, "n_test": n_test}
    told = resolve_orientation(path, matrix.shape, said=orientation, **sizes)
    sign, signed = sign_of(path, positive_means)
    weights, note = turned(path, matrix, told)
    weights *= sign
    weights, bias, units = _to_raw_units(path, weights, None, standardised, alpha)
    return imported(weights, note, units, signed, "output: not known", bias=bias)


def _noted(path: Path, content: dict, name: str):
    """A number or flag that the file notes of itself, or None."""
    if content.get(name) is None:
        return None
    value = to_array(path, name, content[name])
    return value.item() if value.size == 1 else value


def _agreed(path: Path, content: dict, name: str, said):
    """What the user says and the file notes, which must not contradict each other."""
    noted = _noted(path, content, name)
    if noted is None or said == UNKNOWN:
        return said if noted is None else noted
    if said is not None and not np.allclose(noted, said):
        raise ValueError(f"{path} notes {name}={noted}, but you say {said}. Leave it out.")
    return noted


def _to_raw_units(path: Path, weights, bias, standardised, alpha) -> tuple:
    """Weights and bias in raw 0/1 mask units, and a note of what was done for it."""
    if standardised is None:
        raise ValueError(
            f"nobody can tell from {path} whether its weights were fitted on standardised "
            "masks. Say standardised=True and alpha (the share of the training set in a mask) "
            "where they come from fast_l1, as those of the datamodels release may; False where "
            "they are in raw 0/1 units; 'unknown' where only directions matter."
        )
    if (alpha is None) == (standardised in (1, True)):
        raise ValueError(
            f"{path} was read with standardised={standardised} and alpha={alpha}; expected "
            "alpha, the share of the training set in a mask (or of the models that saw each "
            "training example), with standardised=True and only there."
        )
    if standardised == UNKNOWN:
        note = "units unknown, since nobody said if masks were standardised: bias is left out"
        return weights, np.full(len(weights), np.nan, np.float32), note
    if not standardised:
        return weights, bias, "units: raw 0/1 masks"
    raw, raw_bias = un_standardise(weights, 0 if bias is None else bias, alpha)
    spread = np.sqrt(np.mean(alpha) * (1 - np.mean(alpha)))
    units = f"units: raw 0/1 masks, after division by {spread:.3g}"
    return raw, *((None, units) if bias is None else (raw_bias, f"{units}; bias corrected"))


def _vector(path: Path, content: dict, name: str, n_test: int) -> np.ndarray | None:
    if content.get(name) is None:
        return None
    values = to_array(path, name, content[name]).reshape(-1)
    if len(values) != n_test:
        raise ValueError(
            f"{name!r} in {path} has {len(values)} values; expected one for each of the {n_test} "
            "test examples. Are rows and columns of 'weight' swapped?"
        )
    return values.copy()
