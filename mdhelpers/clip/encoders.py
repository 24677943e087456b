"""Image and text encoders that share a space: open_clip's models behind one small interface."""

from __future__ import annotations

import difflib
import hashlib
import logging
import os
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import torch

from mdhelpers.base.places import reachable, resolve

WEIGHT_FILES = (".safetensors", ".pt", ".pth", ".bin")
WAY_OUT = "pass the path of a checkpoint as captions.pretrained, or set captions: {model: none}"


@dataclass(frozen=True, eq=False)
class Encoder:
    """A CLIP and what it takes to feed it.

    Attributes
    ----------
    name
        For people: the model and where its weights come from.
    model
        An open_clip model in evaluation mode.
    tokenize
        Maps a list of n captions to (n, context_length) int64.
    image_size
        Height and width in pixels that the image tower takes.
    mean, std
        Of the colours in [0, 1], as in training.
    words
        The words it has read, if they are few; None for a model of the whole language.
    report
        How it was trained and how well it sees, where that is known (`small_clip`).

    """

    name: str
    model: torch.nn.Module
    tokenize: Callable[[list[str]], torch.Tensor]
    image_size: tuple[int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    device: str = "cpu"
    words: frozenset[str] | None = None
    report: dict = field(default_factory=dict)


def prepare_images(encoder: Encoder, images: np.ndarray) -> torch.Tensor:
    """Images (n, H, W, 3) uint8 as the image tower takes them, resized where they differ."""
    pixels = torch.from_numpy(np.ascontiguousarray(images)).to(encoder.device)
    pixels = pixels.permute(0, 3, 1, 2).float() / 255
    if tuple(pixels.shape[-2:]) != tuple(encoder.image_size):
        pixels = torch.nn.functional.interpolate(
            pixels, size=encoder.image_size, mode="bicubic", antialias=True
        ).clamp(0, 1)
    mean, std = (pixels.new_tensor(v).view(1, 3, 1, 1) for v in (encoder.mean, encoder.std))
    return (pixels - mean) / std


@torch.inference_mode()
def embed_images(encoder: Encoder, images: np.ndarray, *, batch_size: int = 256) -> np.ndarray:
    """Embeddings (n, width) of images (n, H, W, 3) uint8, float32 of unit length.

    Raises
    ------
    ValueError
        For images of another shape or dtype.

    """
    if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8:
        raise ValueError(
            f"images must be (n, height, width, 3) uint8, got {images.shape} {images.dtype}"
        )
    parts = [
        encoder.model.encode_image(
            prepare_images(encoder, images[start : start + batch_size]), normalize=True
        )
        for start in range(0, len(images), batch_size)
    ]
    return torch.cat(parts).float().cpu().numpy()


@torch.inference_mode()
def embed_texts(encoder: Encoder, captions: list[str], *, batch_size: int = 256) -> np.ndarray:
    """Embeddings (n_captions, width) of captions, float32 of unit length."""
    parts = [
        encoder.model.encode_text(
            encoder.tokenize(list(captions[start : start + batch_size])).to(encoder.device),
            normalize=True,
        )
        for start in range(0, len(captions), batch_size)
    ]
    return torch.cat(parts).float().cpu().numpy()


def weights_digest(weights: dict[str, torch.Tensor]) -> str:
    """A hash of named weights."""
    found = hashlib.sha256()
    for name in sorted(weights):
        numbers = weights[name].detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        found.update(name.encode() + numbers.numpy().tobytes())
    return found.hexdigest()


def load_named(model_name: str, pretrained: str, *, device: str = "cpu") -> Encoder:
    """An open_clip model with weights from a local checkpoint or a tag of open_clip's.

    Parameters
    ----------
    model_name
        One of ``open_clip.list_models()``.
    pretrained
        A path (.safetensors, or a .pt/.pth/.bin that holds tensors only), or a tag. Weights that
        lie in the local cache are taken from there without asking the network.
    device
        Where it will run.

    Raises
    ------
    ValueError
        For an unknown name or tag, a model whose tokenizer open_clip does not hold, a file that
        is missing or of another kind, weights of another model, and a tag whose weights cannot
        be downloaded now.

    """
    import open_clip

    name = checked_name(model_name)
    if looks_like_path(pretrained):
        model = build(name, checked_file(pretrained), device)
    else:
        config = tag_config(name, pretrained)
        checkpoint = cached_weights(config) or downloaded_weights(name, pretrained, config)
        model = build(name, checkpoint, device, trained_with=config)
    preprocess = open_clip.get_model_preprocess_cfg(model)
    size = preprocess["size"]
    return Encoder(
        name=f"{name} ({pretrained})",
        model=model.eval(),
        tokenize=open_clip.get_tokenizer(name),
        image_size=(size, size) if isinstance(size, int) else tuple(size),
        mean=tuple(preprocess["mean"]),
        std=tuple(preprocess["std"]),
        device=device,
    )


def checked_name(model_name: str) -> str:
    """A model's name as open_clip has it; ValueError for one that cannot be used."""
    import open_clip

    name = model_name.replace("/", "-")
    refuse_unknown(name, open_clip.list_models(), "CLIP model", "auto, small, none")
    refuse_foreign_text(name, open_clip.get_model_config(name)["text_cfg"])
    return name


def check_named(model_name: str, pretrained: str) -> None:
    """Raise what `load_named` would, as far as it can be told without loading or fetching."""
    name = checked_name(model_name)
    if looks_like_path(pretrained):
        checked_file(pretrained)
        return
    config = tag_config(name, pretrained)
    if cached_weights(config) is None:
        check_reachable(name, pretrained, config)


def build(
    name: str, checkpoint: Path, device: str, *, trained_with: dict | None = None
) -> torch.nn.Module:
    """A model with a file's weights, set up as its tag says that they were trained."""
    import open_clip

    config = trained_with or {}
    kept = ("mean", "std", "interpolation", "resize_mode")
    try:
        with quiet_logging():
            return open_clip.create_model(
                name,
                str(checkpoint),
                device=device,
                weights_only=True,
                force_quick_gelu=bool(config.get("quick_gelu", False)),
                force_preprocess_cfg={k: config[k] for k in kept if config.get(k) is not None},
            )
    except (RuntimeError, KeyError, ValueError, EOFError, pickle.UnpicklingError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"{checkpoint.name} does not hold plain weights of {name} ({first}); check that model "
            "and file belong together, and save the weights as .safetensors"
        ) from error
    except Exception as error:
        if type(error).__name__ != "SafetensorError":
            raise
        raise ValueError(f"{checkpoint.name} is not a safetensors file ({error})") from error


@contextmanager
def quiet_logging() -> Iterator[None]:
    """Keep open_clip's log off the page; it logs to, and sets up, the root logger."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(level)
        root.handlers[:] = handlers


def refuse_unknown(word: str, known, what: str, also: str = "") -> None:
    """ValueError unless ``word`` is one of ``known``, with the nearest of them."""
    if word in known:
        return
    near = difflib.get_close_matches(word, list(known), n=3, cutoff=0.5)
    hint = f"; nearest: {', '.join(near)}" if near else ""
    raise ValueError(f"unknown {what} {word!r}{hint}{f' (also: {also})' if also else ''}")


def refuse_foreign_text(name: str, text_config: dict) -> None:
    """ValueError for models whose tokenizer or text tower lies on a hub."""
    if "siglip" in name.lower() or {"hf_tokenizer_name", "hf_model_name"} & set(text_config):
        raise ValueError(
            f"{name} takes its tokenizer from a hub, which is not supported; choose a model with "
            "CLIP's own, such as ViT-B-32"
        )


def looks_like_path(pretrained: str) -> bool:
    suffixed = pretrained.lower().endswith(WEIGHT_FILES)
    return suffixed or "/" in pretrained or os.sep in pretrained or resolve(pretrained).is_file()


def checked_file(pretrained: str) -> Path:
    path = resolve(pretrained)
    if not path.is_file():
        raise ValueError(f"no CLIP weights at {path}; {WAY_OUT}")
    if path.suffix.lower() not in WEIGHT_FILES:
        raise ValueError(f"{path.name}: CLIP weights must be one of {', '.join(WEIGHT_FILES)}")
    return path


def tag_config(name: str, tag: str) -> dict:
    """What open_clip knows of a tag's weights; ValueError if it knows none for the model."""
    import open_clip

    tags = open_clip.list_pretrained_tags_by_model(name)
    if not tag:
        raise ValueError(
            f"captions.model {name!r} needs weights: {WAY_OUT}; open_clip's tags for it: "
            f"{', '.join(tags) or 'none'}"
        )
    refuse_unknown(tag, tags, f"weights for {name}", "a path")
    return open_clip.get_pretrained_cfg(name, tag)


def cached_weights(config: dict) -> Path | None:
    """The file of a tag in the local cache, or None."""
    from huggingface_hub import try_to_load_from_cache

    if not config.get("hf_hub"):
        name = os.path.basename(urlsplit(config.get("url", "")).path)
        path = Path("~/.cache/clip").expanduser() / name
        return path if name and path.is_file() else None
    repository, file = os.path.split(config["hf_hub"])
    names = [file] if file else ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"]
    for candidate in dict.fromkeys([*(f"{Path(n).stem}.safetensors" for n in names), *names]):
        found = try_to_load_from_cache(repository, candidate)
        if isinstance(found, str):
            return Path(found)
    return None


def downloaded_weights(name: str, tag: str, config: dict) -> Path:
    """Fetch a tag's weights; where its host does not answer, say so within two seconds."""
    import open_clip

    check_reachable(name, tag, config)
    try:
        with quiet_logging():
            return Path(open_clip.download_pretrained(config))
    except Exception as error:
        raise ValueError(
            f"the weights {tag!r} of {name} could not be downloaded ({error}); {WAY_OUT}"
        ) from error


def check_reachable(name: str, tag: str, config: dict) -> None:
    """ValueError unless the host of a tag's weights answers."""
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    address = endpoint if config.get("hf_hub") else config["url"]
    if not reachable(address):
        raise ValueError(
            f"the weights {tag!r} of {name} are not on this machine and "
            f"{urlsplit(address).hostname} cannot be reached; {WAY_OUT}"
        )
