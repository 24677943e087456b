"""The small CLIP's architecture: open_clip's model from a configuration that we register.

`small_clip.json` is registered with ``open_clip.add_model_config`` and describes 0.3 million
weights. The image tower is convolutional and our own, registered with timm: 24 px leave a vision
transformer few patches, and it would need far more steps. The text tower is a transformer of two
layers. open_clip's tokenizer has 49,408 ids, of which the descriptions use about 60:
`compact_tokenizer` renumbers those in order, 0 for padding, so that the end-of-text id stays the
largest, which is how CLIP finds it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from torch import nn

from mdhelpers.descriptions import WORDS
from mdhelpers.encoders import Encoder, quiet_logging

CONFIG = Path(__file__).with_name("small_clip.json")
MEAN = STD = (0.5, 0.5, 0.5)


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
