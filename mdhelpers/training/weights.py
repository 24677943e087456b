"""Weights of a plain model from a file: read without running anything, and fitted to a model."""

from __future__ import annotations

import hashlib
import os
import shutil
from http.client import HTTPException
from pathlib import Path
from urllib.request import urlopen

import torch
from safetensors.torch import load_file
from torch import nn

from mdhelpers.base.arrays import load_pickled
from mdhelpers.base.places import reachable, resolve

SUFFIXES = (".safetensors", ".pt", ".pth")
WRAPPERS = ("state_dict", "model_state_dict", "model")
PREFIXES = ("module.", "_orig_mod.")  # of DataParallel and torch.compile
COUNTER = "num_batches_tracked"
DEEPEST = 8  # mappings in one another, prefixes in a row
PATIENCE_S = 10.0


def read_weights(path: str | Path) -> dict[str, torch.Tensor]:
    """A plain model's state dict, on the CPU.

    Parameters
    ----------
    path
        A ``.safetensors`` file, or a ``.pt`` or ``.pth`` that holds tensors only, perhaps under
        ``state_dict`` or ``model``. Nothing in it is executed.

    Raises
    ------
    ValueError
        For a file that is missing, of another kind, or holds anything besides named tensors.

    """
    path = resolve(path)
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{path}: weights are read from {', '.join(SUFFIXES)} files only")
    if not path.is_file():
        raise ValueError(f"no weights at {path}")
    held = _safetensors(path) if path.suffix.lower() == ".safetensors" else load_pickled(path)
    state = _unwrapped(path, held)
    foreign = [k for k, value in state.items() if not (torch.is_tensor(value) and type(k) is str)]
    if foreign or not state:
        what = f"{foreign[0]!r} is not one" if foreign else "there are none"
        raise ValueError(f"{path} should hold named tensors and {what}; save a state_dict()")
    return _without_prefix(state)


def _safetensors(path: Path) -> dict:
    try:
        return load_file(path)
    except OSError as error:
        raise OSError(f"{path} cannot be read ({error})") from error
    except Exception as error:
        raise ValueError(f"{path} is not a safetensors file ({error})") from error


def _unwrapped(path: Path, held: object) -> dict:
    for _ in range(DEEPEST):  # a mapping may hold itself
        if not isinstance(held, dict):
            break
        inner = next((held[key] for key in WRAPPERS if isinstance(held.get(key), dict)), None)
        if inner is None:
            return held
        held = inner
    raise ValueError(
        f"{path}: weights should be a mapping of names to tensors, got {type(held).__name__}"
    )


def _without_prefix(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    for _ in range(DEEPEST):
        for prefix in PREFIXES:
            if all(key.startswith(prefix) for key in state):
                state = {key.removeprefix(prefix): state[key] for key in state}
    return state


def fit_to(
    model: nn.Module, state: dict[str, torch.Tensor], *, fresh_head: bool = True
) -> dict[str, torch.Tensor]:
    """``state`` completed to what a plain model's ``load_state_dict`` takes.

    Parameters
    ----------
    model
        A plain model; where its last linear layer differs in shape from the state's, as it does
        for another number of classes, the model's own is kept.
    state
        Weights under the model's names.
    fresh_head
        Whether that is allowed.

    Returns
    -------
    A new dict with the model's keys; tensors are not copied.

    Raises
    ------
    ValueError
        Names the first keys that are missing, unknown, or of another shape.

    """
    own = model.state_dict()
    # files older than batch norm's step counters lack them, and nothing here uses them
    state = {key: own[key] for key in own if key.endswith(COUNTER)} | state
    head = _head_keys(model) if fresh_head else set()
    if any(key in state and state[key].shape != own[key].shape for key in head):
        state = state | {key: own[key] for key in head}
    if faults := weight_faults(own, state):
        raise ValueError(
            f"these weights are not a {type(model).__name__}'s: {faults}; check that the "
            "architecture and its width are those of the file"
        )
    return {key: state[key] for key in own}


def weight_faults(own: dict[str, torch.Tensor], state: dict[str, torch.Tensor]) -> str:
    """The first three keys of ``state`` that do not fit a model's ``own``; empty if all do."""
    faults = [f"{key} is missing" for key in own if key not in state]
    faults += [f"{key} is unknown" for key in state if key not in own]
    faults += [
        f"{key} has shape {tuple(state[key].shape)}, expected {tuple(own[key].shape)}"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    more = f" (and {len(faults) - 3} more)" if len(faults) > 3 else ""
    return "; ".join(faults[:3]) + more


def _head_keys(model: nn.Module) -> set[str]:
    """The keys of the last linear layer."""
    linear = [name for name, part in model.named_modules() if isinstance(part, nn.Linear)]
    return {key for key in model.state_dict() if linear and key.startswith(f"{linear[-1]}.")}


def torchvision_weights(architecture: str) -> dict[str, torch.Tensor]:
    """torchvision's ImageNet weights (``IMAGENET1K_V1``) of ``resnet18`` or ``resnet50``.

    They are taken from torch hub's cache, or downloaded into it.

    Raises
    ------
    ValueError
        For an architecture without weights, and when they are neither in the cache nor can be
        downloaded now; says where to put the file.

    """
    from torchvision.models import get_model_weights

    try:
        url = get_model_weights(architecture)["IMAGENET1K_V1"].url
    except (ValueError, KeyError) as error:
        raise ValueError(f"torchvision has no ImageNet weights of {architecture!r}") from error
    place = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[1]
    if not place.is_file():
        _download(url, place)
    return read_weights(place)


def _download(url: str, place: Path) -> None:
    way_out = (
        f"put {url} at {place}, or set initialisation: {{kind: checkpoint, path: FILE}} to weights "
        "that you have"
    )
    if not reachable(url):
        raise ValueError(f"{place.name} is not on this machine and cannot be fetched; {way_out}")
    place.parent.mkdir(parents=True, exist_ok=True)
    temporary = place.with_suffix(f".{os.getpid()}.tmp")
    try:
        with urlopen(url, timeout=PATIENCE_S) as answer, temporary.open("wb") as file:
            shutil.copyfileobj(answer, file)
        _check_hash(temporary, place.stem.rsplit("-", 1)[1])
        temporary.replace(place)
    except (OSError, HTTPException, ValueError) as error:
        raise ValueError(f"{place.name} could not be downloaded ({error}); {way_out}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _check_hash(path: Path, expected: str) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if not found.startswith(expected):
        raise ValueError(f"its SHA-256 begins with {found[: len(expected)]}, not {expected}")
