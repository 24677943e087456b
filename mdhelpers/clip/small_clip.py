"""A small CLIP that knows generated scenes: trained here in a minute or two, no download.

Each step sees two groups of scenes, marked by features and plain, and contrasts within each: in one
mixed batch the features and backgrounds tell the pictures apart, and the classes are learned late.
Equal descriptions in a group are not treated as equal targets; they only raise the loss that the
best model reaches.

The architecture is open_clip's, from a configuration of 0.3 million weights that we register
(`small_clip.json`). The image tower is convolutional and our own, registered with timm: 24 px leave
a vision transformer few patches, and it would need far more steps. The text tower is a transformer
of two layers. open_clip's tokenizer has 49,408 ids, of which the descriptions use about 60:
`compact_tokenizer` renumbers those in order, 0 for padding, so that the end-of-text id stays the
largest, which is how CLIP finds it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from sklearn.metrics import roc_auc_score
from torch import nn
from tqdm import tqdm

from mdhelpers.base.arrays import write_tensors
from mdhelpers.base.threads import one_thread
from mdhelpers.clip.encoders import (
    Encoder,
    embed_images,
    embed_texts,
    prepare_images,
    quiet_logging,
    weights_digest,
)
from mdhelpers.clip.words import (
    FEATURE_WORDINGS,
    WORDS,
    describe,
    describe_fully,
    facts,
    with_article,
)
from mdhelpers.data import scenes
from mdhelpers.data.datasets import Split
from mdhelpers.data.drawings import CORNERS

CONFIG = Path(__file__).with_name("small_clip.json")
RECIPE = 2  # raise it with any change to what training gives: old weights are not taken then
MEAN = STD = (0.5, 0.5, 0.5)
RECALL_AT = (1, 5)
CLEAR = (0.25, 1.0)  # contrast of the objects: clearer than in a study, so that shapes are learned


@dataclass(frozen=True)
class Training:
    """Everything that decides the weights, besides the code that draws and describes."""

    size: int = 24
    seed: int = 0
    steps: int = 1000
    marked: int = 64
    plain: int = 32
    n_scenes: int = 8000
    rate: float = 0.2
    lr: float = 3e-3
    weight_decay: float = 0.05


def load_or_train(
    cache_dir: Path | str,
    *,
    size: int = 24,
    seed: int = 0,
    steps: int = Training.steps,
    progress: bool = True,
) -> Encoder:
    """The small CLIP from ``cache_dir`` if one was made from the same parameters, else trained.

    It runs in one thread on the CPU and gives the same bits for the same parameters.

    Parameters
    ----------
    cache_dir
        Folder for the weights (safetensors; parameters, losses and report in its metadata).
    size
        Height and width of the scenes, pixels.
    seed
        Seeds scenes, descriptions and weights.
    steps
        Optimiser steps; about 0.12 s each on one core.
    progress
        Show a progress bar.

    Returns
    -------
    Encoder
        ``report`` holds ``parameters``, ``n_weights``, ``losses`` (records of step
        and loss), ``auc`` (records of what, caption, auc, n: see `held_out_auc`) and ``retrieval``
        (records of k, recall, chance, choices, batches: see `held_out_retrieval`).

    """
    training = Training(size=size, seed=seed, steps=steps)
    path = Path(cache_dir) / file_name(training)
    with suppress(FileNotFoundError, ValueError):  # none yet, or a damaged one
        return load(path)
    train(training, path, progress=progress)
    return load(path)


class SmallConv(nn.Module):
    """Four convolutions, and what their maxima say at three ranges.

    The maximum over the whole picture tells what is there, at two scales; over each quarter of it,
    where. Without the former every quarter would have to learn every feature by itself.
    """

    default_cfg: dict = {"pool_size": None}  # noqa: RUF012  read by open_clip's TimmModel

    def __init__(self, widths: tuple[int, ...] = (48, 64, 96, 128)):
        super().__init__()
        a, b, c, d = widths
        self.fine = nn.Sequential(convolution(3, a, kernel=4, stride=2), convolution(a, b))
        self.coarse = nn.Sequential(convolution(b, c, stride=2), convolution(c, d))
        self.num_features = b + 6 * d

    def reset_classifier(self, num_classes: int = 0) -> None:
        """Nothing to reset: there is no classifier. TimmModel asks for it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        fine = self.fine(x)
        coarse = self.coarse(fine)
        quarters = nn.functional.adaptive_max_pool2d(coarse, 2).flatten(1)
        whole = (fine.amax(dim=(2, 3)), coarse.amax(dim=(2, 3)), coarse.mean(dim=(2, 3)))
        return torch.cat([*whole, quarters], dim=1)


def convolution(wide_in: int, wide_out: int, *, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(wide_in, wide_out, kernel, stride, padding=1, bias=False),
        nn.BatchNorm2d(wide_out),
        nn.ReLU(inplace=True),
    )


def mdhelpers_small_conv(pretrained: bool = False, **_) -> SmallConv:  # noqa: ARG001
    """The entry point that timm's registry calls."""
    return SmallConv()


@cache
def register() -> None:
    """Make `small_clip` known to open_clip, and its image tower to timm."""
    import open_clip
    from timm.models import register_model

    register_model(mdhelpers_small_conv)
    open_clip.add_model_config(CONFIG)


@cache
def compact_tokenizer() -> Callable[[list[str]], torch.Tensor]:
    """open_clip's tokenizer with the ids that `WORDS` need renumbered from 1; 0 is padding."""
    import open_clip

    register()
    tokenizer = open_clip.get_tokenizer(CONFIG.stem)
    ids = {token for word in (*WORDS, ",") for token in tokenizer.encode(word)}
    ordered = sorted(ids | set(tokenizer.all_special_ids))
    room = open_clip.get_model_config(CONFIG.stem)["text_cfg"]["vocab_size"]
    if len(ordered) >= room:
        raise ValueError(f"{len(ordered)} ids need vocab_size above {room} in {CONFIG.name}")
    table = torch.zeros(tokenizer.vocab_size, dtype=torch.long)
    table[torch.tensor(ordered)] = torch.arange(1, len(ordered) + 1)
    return lambda captions: table[tokenizer(captions)]


def new_encoder(size: int) -> Encoder:
    """An untrained small CLIP; its weights follow torch's global generator."""
    import open_clip

    register()
    with quiet_logging():
        model = open_clip.create_model(CONFIG.stem, force_image_size=size)
    return Encoder(
        name="small CLIP (trained on generated scenes)",
        model=model,
        tokenize=compact_tokenizer(),
        image_size=(size, size),
        mean=MEAN,
        std=STD,
        words=WORDS,
    )


def file_name(training: Training) -> str:
    """Under which name the weights of a training are kept."""
    return f"small_clip_{training_key(training)}.safetensors"


def training_key(training: Training) -> str:
    """A hash of the parameters, the recipe's number, some scenes and their descriptions."""
    sample, rng = training_scenes(16, training.rate, training.size, 0), np.random.default_rng(0)
    told = [describe(scene, rng) for scene in facts(sample.metadata)]
    about = [RECIPE, asdict(training), told, sorted(WORDS)]
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    digest.update(CONFIG.read_bytes())
    digest.update(sample.images.tobytes())
    return digest.hexdigest()[:16]


def train(training: Training, path: Path, *, progress: bool = False) -> None:
    """Train, grade on new scenes, and write the weights with their report to ``path``."""
    with one_thread(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.seed)
        encoder = new_encoder(training.size)
        steps = fit(encoder, training)
        bar = tqdm(steps, total=training.steps, unit="step", mininterval=2, disable=not progress)
        losses = list(bar)
        encoder.model.eval()
        report = {
            "parameters": asdict(training),
            "n_weights": sum(p.numel() for p in encoder.model.parameters()),
            "losses": smoothed(losses),
            "auc": held_out_auc(encoder, size=training.size, seed=training.seed),
            "retrieval": held_out_retrieval(encoder, size=training.size, seed=training.seed),
        }
    save(encoder.model, path, report)


def fit(encoder: Encoder, training: Training) -> Iterator[float]:
    """Take the optimiser's steps; yields the loss of each, averaged over its scenes."""
    from open_clip import ClipLoss

    model, contrast = encoder.model.train(), ClipLoss()
    optimizer, schedule = optimizer_of(model, training)
    for pixels, captions in batches(encoder, training):
        seen, read, scale = model(pixels, captions)
        groups = (slice(0, training.marked), slice(training.marked, None))
        parts = [contrast(seen[group], read[group], scale) for group in groups]
        total = training.marked + training.plain
        loss = (training.marked * parts[0] + training.plain * parts[1]) / total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        yield loss.item()


def optimizer_of(model: torch.nn.Module, training: Training) -> tuple:
    """AdamW with a one-cycle rate; weight decay on matrices only, as CLIP has it."""
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1]},
        {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(
        groups, lr=training.lr, betas=(0.9, 0.98), weight_decay=training.weight_decay
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, training.lr, total_steps=training.steps + 1, pct_start=0.1
    )
    return optimizer, schedule


def batches(encoder: Encoder, training: Training) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Marked scenes, then plain ones, each described afresh: pixels and token ids."""
    rng = np.random.default_rng([training.seed, 104])
    marked, plain = (
        training_scenes(training.n_scenes, rate, training.size, 2 * training.seed + i)
        for i, rate in enumerate((training.rate, 0.0))
    )
    known = facts(marked.metadata) + facts(plain.metadata)
    images = np.concatenate([marked.images, plain.images])
    for _ in range(training.steps):
        first = rng.integers(training.n_scenes, size=training.marked)
        second = training.n_scenes + rng.integers(training.n_scenes, size=training.plain)
        rows = np.concatenate([first, second])
        pixels = prepare_images(encoder, images[rows])
        yield pixels, encoder.tokenize([describe(known[i], rng) for i in rows])


def smoothed(losses: list[float], n_points: int = 40) -> list[dict]:
    """The losses averaged over at most ``n_points`` runs of steps, with each run's last step."""
    parts = np.array_split(np.arange(len(losses)), min(n_points, len(losses)))
    return [
        {"step": int(part[-1]) + 1, "loss": round(float(np.mean([losses[i] for i in part])), 4)}
        for part in parts
    ]


def training_scenes(n: int, rate: float, size: int, seed: int) -> Split:
    """`scenes.random_scenes` with clearer objects."""
    rng = np.random.default_rng([seed, 103])
    factors = scenes.draw_factors(rng.integers(len(scenes.CLASS_NAMES), size=n), rng)
    for name in scenes.FEATURES:
        factors[f"feature_{name}"] = rng.random(n) < rate
    factors["tag_corner"] = np.where(factors["feature_tag"], rng.choice(CORNERS, n), "")
    factors["contrast"] = rng.uniform(*CLEAR, n)
    return scenes.render(factors, size, rng)


def held_out_auc(encoder: Encoder, *, size: int, seed: int, n: int = 1500) -> list[dict]:
    """Whether the similarity to a caption tells new scenes that show a thing from others.

    Records of ``kind``, ``what``, ``caption``, ``auc``, ``n`` (scenes that show it) for each
    feature, class, background colour and corner of the tag.
    """
    split = scenes.random_scenes(n, size=size, seed=seed + 1_000_003)
    questions = list(held_out_questions(split))
    captions = [caption for _, _, caption, _ in questions]
    similarity = embed_images(encoder, split.images) @ embed_texts(encoder, captions).T
    return [
        {
            "kind": kind,
            "what": what,
            "caption": caption,
            "auc": round(float(roc_auc_score(shown, similarity[:, column])), 4),
            "n": int(shown.sum()),
        }
        for column, (kind, what, caption, shown) in enumerate(questions)
    ]


def held_out_retrieval(
    encoder: Encoder, *, size: int, seed: int, choices: int = 100, batches: int = 50
) -> list[dict]:
    """How often the right description of a new scene is among the k that fit it best.

    A batch is ``choices`` scenes whose full descriptions differ and are no longer than the text
    tower reads. Records of ``k``, ``recall`` (mean over batches), ``chance``, ``choices``,
    ``batches``.
    """
    rng, recalls = np.random.default_rng([seed, 107]), []
    split = scenes.random_scenes(40 * choices, size=size, seed=seed + 1_000_033)
    told = np.array([describe_fully(scene) for scene in facts(split.metadata)])
    read = (encoder.tokenize(list(told)) > 0).sum(dim=1).numpy()
    fit = np.flatnonzero(read < encoder.model.context_length)
    similarity = embed_images(encoder, split.images) @ embed_texts(encoder, list(told)).T
    for _ in range(batches):
        order = rng.permutation(fit)
        rows = order[np.unique(told[order], return_index=True)[1]]
        rows = rng.choice(rows, choices, replace=False)
        part = similarity[np.ix_(rows, rows)]
        better = (part > np.diagonal(part)[:, None]).sum(axis=1)
        recalls.append([(better < k).mean() for k in RECALL_AT])
    means = np.mean(recalls, axis=0).round(4)
    about = {"choices": choices, "batches": batches}
    return [
        {"k": k, "recall": float(recall), "chance": k / choices} | about
        for k, recall in zip(RECALL_AT, means, strict=True)
    ]


def held_out_questions(split: Split) -> Iterator[tuple[str, str, str, np.ndarray]]:
    table = split.metadata
    for name in scenes.FEATURES:
        wording = with_article(FEATURE_WORDINGS[name][0])
        yield "feature", name, f"a picture with {wording}", table[f"feature_{name}"].to_numpy(bool)
    for name in scenes.CLASS_NAMES:
        shown = (table["class_name"] == name).to_numpy()
        yield "class", name, f"a picture of {with_article(name)}", shown
    for name in scenes.BACKGROUND_COLORS:
        shown = (table["background_color"] == name).to_numpy()
        yield "background", name, with_article(f"{name} background"), shown
    for name in CORNERS:
        yield (
            "corner",
            name,
            f"a tag in the {name} corner",
            (table["tag_corner"] == name).to_numpy(),
        )


def save(model: torch.nn.Module, path: Path, report: dict) -> None:
    """Write weights, their digest, configuration, words and report, all or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    config = json.loads(CONFIG.read_text(encoding="utf-8"))
    weights = {name: value.contiguous() for name, value in model.state_dict().items()}
    about = {"config": config, "words": sorted(WORDS), "report": report}
    about["digest"] = weights_digest(weights)
    write_tensors(path, weights, {name: json.dumps(value) for name, value in about.items()})


def load(path: Path) -> Encoder:
    """Read what `save` wrote.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is damaged.

    """
    try:
        with safe_open(path, framework="pt") as file:
            about = {name: json.loads(text) for name, text in file.metadata().items()}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        report, whole = about["report"], about["digest"] == weights_digest(weights)
    except FileNotFoundError:
        raise
    except Exception as error:  # the library raises many kinds
        raise ValueError(f"{path} is damaged ({error}); it is trained anew") from error
    if not whole:
        raise ValueError(f"{path} is damaged; it is trained anew")
    with torch.random.fork_rng(devices=[]):
        encoder = new_encoder(report["parameters"]["size"])
    encoder.model.load_state_dict(weights)
    encoder.model.eval()
    return replace(encoder, report=report)
