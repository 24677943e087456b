"""A second device that is not there, to see without a GPU what is computed where.

Within `Card`, tensors made on `CARD` or sent there say that they are on it and hold real values.
As on a GPU, an operation on tensors of both devices is refused, and so is `numpy()` of one there.
What costs much and is still computed on the host is written down.
"""

from __future__ import annotations

from functools import partial

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only, tree_unflatten

CARD = "meta"  # torch knows its name; what is on it has values here
COSTLY = ("mm", "bmm", "addmm", "addmm_", "addbmm", "baddbmm", "_linalg_eigh", "linalg_qr")
INDEXED = ("index", "index_put", "index_put_", "_index_put_impl_")  # by a host's tensor too


class OnCard(torch.Tensor):
    """A tensor on the card; ``inner`` has its values."""

    @staticmethod
    def __new__(cls, inner: torch.Tensor):
        about = {"strides": inner.stride(), "storage_offset": inner.storage_offset()}
        about |= {"dtype": inner.dtype, "layout": inner.layout, "device": CARD}
        return torch.Tensor._make_wrapper_subclass(cls, inner.shape, **about)

    def __init__(self, inner: torch.Tensor):
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return computed(func, args, kwargs or {})


class Card(TorchDispatchMode):
    """While it is entered, `CARD` is a device; ``on_host`` has what was costly and not on it."""

    def __init__(self):
        super().__init__()
        self.on_host: list[str] = []
        self.on_card: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name, kwargs = func._schema.name.partition("::")[2], kwargs or {}
        if name in COSTLY:
            there = any(isinstance(part, OnCard) for part in tree_flatten((args, kwargs))[0])
            (self.on_card if there else self.on_host).append(name)
        return computed(func, args, kwargs)


def computed(func, args, kwargs):
    """The operation on the values of its tensors, which must be on one device."""
    name, device = func._schema.name.partition("::")[2], kwargs.get("device")
    flat, tree = tree_flatten((args, kwargs))
    there = [part for part in flat if isinstance(part, OnCard)]
    if name == "_to_copy":
        goes = bool(there) if device is None else torch.device(device).type == CARD
    else:
        _check(name, args, flat, there)
        goes = bool(there) or (device is not None and torch.device(device).type == CARD)
    known = {id(part.inner): part for part in there}
    flat = [part.inner if isinstance(part, OnCard) else part for part in flat]
    args, kwargs = tree_unflatten(flat, tree)
    if device is not None:
        kwargs["device"] = torch.device("cpu")
    found = func(*args, **kwargs)
    if name == "copy_":
        return known.get(id(found), found)
    return tree_map_only(torch.Tensor, partial(_there, known), found) if goes else found


def _there(known: dict[int, OnCard], found: torch.Tensor) -> OnCard:
    """The result on the card: the very tensor that was worked on in place, or a new one."""
    return known[id(found)] if id(found) in known else OnCard(found)


def _check(name: str, args, flat, there) -> None:
    tensors = [part for part in flat if isinstance(part, torch.Tensor) and part.dim()]
    here = [part for part in tensors if not isinstance(part, OnCard)]
    if not (here and there) or name == "copy_":
        return
    if name in INDEXED and isinstance(args[0], OnCard):
        values = [part for part in args[2:3] if isinstance(part, torch.Tensor) and part.dim()]
        if all(isinstance(part, OnCard) for part in values):
            return
    raise RuntimeError(f"{name} was given tensors of two devices")
