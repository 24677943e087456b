"""For stage 07: which transformation imitates what each end of a direction has in common.

Every transformation of the library, and those of the study's hypotheses, is put into one half of
the test images. It is proposed for an end of a direction where it moves their embeddings as the
end's images differ from their classmates (`mdhelpers.method.proposals`), and moves their
datamodels along the direction. Embeddings are the study's CLIP's or, where it has none, the
features of some of its own networks of both algorithms. What is proposed is tested on the other
half of the images, and on models that proposed nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import islice

import numpy as np
import pandas as pd
import torch
from torch import nn

from mdhelpers.clip import small_clip
from mdhelpers.clip.encoders import embed_images
from mdhelpers.data.datasets import Split
from mdhelpers.data.transforms import KINDS, Around, Transformation, transform_images
from mdhelpers.method.comparison import COMPARISONS
from mdhelpers.method.evidence import STRONG, benjamini_hochberg
from mdhelpers.method.proposals import matches, residual_projections
from mdhelpers.method.subpopulations import ENDS
from mdhelpers.runs.run import Run
from mdhelpers.runs.stage import CAPTIONS
from mdhelpers.stages.captions import load_clip, spec_of
from mdhelpers.stages.comparison import StudyComparison
from mdhelpers.stages.models import StudyModels
from mdhelpers.training.algorithms import NetworkSpec
from mdhelpers.training.augmentation import normalise
from mdhelpers.training.gradients import plain_network, scores_of
from mdhelpers.training.tasks import resident_data

NO_CANDIDATES = ("several", "patch", "pattern", "square", "scrambled_square")
DOSES = (0.6, 0.8, 1.0)  # of a transformation's default intensity, for those of the library
N_DIRECTIONS = 8  # of either side, at whose ends are looked
N_NETWORKS = 6  # of either algorithm, whose gradients and features are looked at
N_MOVED = 40  # images of a class, at most, that each candidate is put into,
N_LOOKED_AT = 24  # and of these those whose datamodels are looked at
_FEWEST = 8  # images of one class that an end must have
_DAMPING, N_VIEWS = 1.0, 2
COLUMNS = {"comparison": str, "direction": int, "end": str, "class_name": str, "n": int}
COLUMNS |= {"transformation": str, "match": float, "p": float, "q": float, "moved": float}


def library(test: Split) -> dict[str, Transformation]:
    """The transformations that are tried on every data set, by name."""
    found = (kind() for word, kind in KINDS.items() if word not in NO_CANDIDATES)
    known = [each for each in found if test.foreground is not None or not each.needs_foreground]
    return {each.name: each for each in known}


def around(test: Split) -> Around:
    """What transformations may know of the test images."""
    return Around(test.foreground, test.labels)


def halves(n_test: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Test images that transformations are proposed on, and those that they are tested on."""
    order = np.random.default_rng([seed, 13]).permutation(n_test)
    return np.sort(order[: n_test // 2]), np.sort(order[n_test // 2 :])


def propose(
    run: Run,
    models: StudyModels,
    found: StudyComparison,
    members: pd.DataFrame,
    candidates: Mapping[str, tuple[Transformation, float]],
    captions: dict,
    *,
    seed: int,
) -> pd.DataFrame:
    """What imitates the ends of the directions that stage 04 calls.

    Parameters
    ----------
    run, models, found, members
        The run; its models, directions and subpopulations.
    candidates
        Transformations with the intensity that they are tried at, by name.
    captions
        The study's choice of a CLIP.
    seed
        Of transformations, halves and random subpopulations.

    Returns
    -------
    DataFrame
        A row a candidate of each end that has a class, the best first: ``comparison, direction,
        end, class_name, n`` (images of that class), ``transformation``, and ``match, p, moved`` of
        `mdhelpers.method.proposals`; ``q`` is p corrected for the number of ends (Benjamini and
        Hochberg). ``moved`` is NaN where models have no gradients.
    """
    test, (rows, _) = models.dataset.test, halves(models.plan.n_test, seed)
    ends = list(called_ends(found, members, test.labels)) if candidates else []
    embed = embedder(run, models, captions) if ends else None
    if embed is None:
        return pd.DataFrame(columns=list(COLUMNS)).astype(COLUMNS)
    rows = few_of_each(test.labels, rows, N_MOVED, seed)
    ends = [end for end in ends if comparable(end, test.labels, rows)]
    few = few_of_each(test.labels, rows, N_LOOKED_AT, seed)
    looked_at, chosen = [test.images[few]], np.isin(rows, few)
    embeddings, moves = embed(test.images), {}
    for name, (each, dose) in candidates.items():
        given = Around(*(x if x is None else x[rows] for x in (test.foreground, test.labels)))
        part = transform_images(each, test.images[rows], dose, seed=seed, around=given)
        moves[name] = embed(part) - embeddings[rows]
        looked_at.append(part[chosen])
    places = Places.measured(models, few, np.stack(looked_at), list(moves), seed)
    tables = []
    for key, label, inside in ends:
        table = of_end(key, label, inside, embeddings, moves, test.labels, rows, seed)
        moved = places.moved(found, key, label, inside) if places else dict.fromkeys(moves, np.nan)
        table["moved"] = table["transformation"].map(moved)
        table.insert(3, "class_name", models.dataset.class_names[label])
        tables.append(table)
    if not tables:
        return pd.DataFrame(columns=list(COLUMNS)).astype(COLUMNS)
    first = np.array([table["p"].iat[0] for table in tables])
    scale = np.repeat(benjamini_hochberg(first) / first, [len(table) for table in tables])
    joined = pd.concat(tables, ignore_index=True)
    return joined.assign(q=np.minimum(joined["p"] * scale, 1))[list(COLUMNS)]


def few_of_each(labels: np.ndarray, rows: np.ndarray, n: int, seed: int) -> np.ndarray:
    """At most ``n`` of the rows of each class, at random, in order."""
    order = np.random.default_rng([seed, 14]).permutation(rows)
    rank = pd.Series(labels[order]).groupby(labels[order]).cumcount().to_numpy()
    return np.sort(order[rank < n])


def called_ends(
    found: StudyComparison, members: pd.DataFrame, labels: np.ndarray
) -> Iterator[tuple[tuple[str, int, str], int, np.ndarray]]:
    """Both ends of each direction that is called: its key, its commonest class, members of it.

    Of more than `N_DIRECTIONS` those of the strongest evidence: each end that is looked at takes
    power from the others.
    Without models to weigh evidence with, all directions count as called.
    """
    keys = ["comparison", "direction"]
    if found.gaps is not None:
        called = (found.gaps["q"] < STRONG) & (found.gaps["rank"] <= N_DIRECTIONS)
        members = members.merge(found.gaps.loc[called, keys], on=keys)
    for key, rows in members.groupby([*keys, "end"], sort=False, observed=True):
        index = rows["index"].to_numpy()
        label = np.bincount(labels[index]).argmax()
        index = index[labels[index] == label]
        if len(index) >= _FEWEST:
            yield key, int(label), index


def comparable(end: tuple, labels: np.ndarray, rows: np.ndarray) -> bool:
    """Whether an end's class has images beside it, and some that candidates are put into."""
    _, label, inside = end
    return np.sum(labels == label) > len(inside) and bool(np.any(labels[rows] == label))


def of_end(key, label, inside, embeddings, moves, labels, rows, seed) -> pd.DataFrame:
    of_class = np.flatnonzero(labels == label)
    place = {index: i for i, index in enumerate(of_class)}
    mates = np.setdiff1d(of_class, inside)
    changes = {name: change[labels[rows] == label].mean(0) for name, change in moves.items()}
    table = matches(
        embeddings[of_class],
        changes,
        np.array([place[i] for i in inside]),
        np.array([place[i] for i in mates], int),
        seed=seed,
    )
    for position, (name, value) in enumerate(
        zip(("comparison", "direction", "end"), key, strict=True)
    ):
        table.insert(position, name, value)
    table.insert(3, "n", len(inside))
    return table


def embedder(run: Run, models: StudyModels, captions: dict) -> Callable | None:
    """What embeds images: the study's CLIP, else its own networks, else None."""
    spec, kept = spec_of(run, captions), run.outputs(CAPTIONS, "clip/*.safetensors")
    if spec.model != "none":
        given = {"cache_dir": run.path / "clip", "device": models.plan.here}
        encoder = small_clip.load(kept[0]) if kept else load_clip(spec, **given)
        return partial(embed_images, encoder)
    networks = [net for a in (1, 2) for net in some_networks(models, a)]
    return partial(features, networks) if networks else None


def features(networks: list[nn.Module], images: np.ndarray) -> np.ndarray:
    """What enters the last layers of networks, side by side, each of mean length 1."""
    parts = [last_features(net, images) for net in networks]
    parts = [part / np.linalg.norm(part, axis=1).mean() for part in parts]
    return np.concatenate(parts, axis=1)


def some_networks(models: StudyModels, algorithm: int) -> Iterator[nn.Module]:
    """The first kept networks of an algorithm; none of an algorithm that makes no networks."""
    if not isinstance(models.plan.algorithms[algorithm - 1], NetworkSpec):
        return iter(())
    n = min(N_NETWORKS, models.plan.n_keep)
    kept = models.kept(algorithm, n) if n else []
    each = (plain_network(s.stack, g) for s in kept for g in range(s.stack.n_models))
    return islice(each, n)


@torch.no_grad()
def last_features(net: nn.Module, images: np.ndarray, *, batch: int = 512) -> np.ndarray:
    """What enters a network's last linear layer, (n, width) float32."""
    last = [module for module in net.modules() if isinstance(module, nn.Linear)][-1]
    found: list[torch.Tensor] = []
    hook = last.register_forward_pre_hook(lambda _, given: found.append(given[0].flatten(1)))
    for part in torch.from_numpy(np.array(images)).split(batch):
        net(normalise(part).permute(0, 3, 1, 2))
    hook.remove()
    return torch.cat(found).numpy()


class Places:
    """Where some test images lie along directions, as they are and transformed.

    Attributes
    ----------
    scores
        Datamodels of both algorithms, from gradients, relative to the untouched images of the
        class: two of (1 + n_candidates, n_images, n_train), the untouched images first.
    rows
        Which test images they are, (n_images,) int.
    labels
        Of all test images.
    names
        The candidates.
    """

    def __init__(self, scores, rows: np.ndarray, labels: np.ndarray, names: list[str]):
        self.scores, self.rows, self.labels, self.names = scores, rows, labels, names

    @classmethod
    def measured(
        cls, models: StudyModels, rows: np.ndarray, images: np.ndarray, names: list[str], seed: int
    ) -> Places | None:
        """Of images (1 + n_candidates, n_images, H, W, 3); None where gradients cannot be taken."""
        networks = [list(some_networks(models, a)) for a in (1, 2)]
        if not all(networks):
            return None
        labels = models.dataset.test.labels
        data, *_ = resident_data(models.plan)
        flat = torch.from_numpy(np.concatenate(images))
        repeated = torch.from_numpy(np.tile(labels[rows], len(images)))
        found = []
        for spec, nets in zip(models.plan.algorithms, networks, strict=True):
            given = {"damping": _DAMPING, "views": N_VIEWS, "seed": seed}
            scores = scores_of(nets, spec, data, flat, repeated, **given).numpy()
            scores = scores.reshape(*images.shape[:2], -1)
            for label in np.unique(labels[rows]):
                of_class = labels[rows] == label
                scores[:, of_class] -= scores[0, of_class].mean(0)
            found.append(scores)
        return cls(tuple(found), rows, labels, names)

    def moved(
        self, found: StudyComparison, key, label: int, inside: np.ndarray
    ) -> dict[str, float]:
        """How far each candidate moves images of a class that are not members towards an end."""
        name, number, end = key
        patterns, sign = found.comparison[name], 1 if end == ENDS[0] else -1
        place = [int(n) for n in patterns.component].index(number)
        there = sign * patterns.projections[:, place]
        mates = np.setdiff1d(np.flatnonzero(self.labels == label), inside)
        way = there[inside].mean() - there[mates].mean()
        chosen = (self.labels[self.rows] == label) & ~np.isin(self.rows, inside)
        if not chosen.any() or way <= 0:
            return dict.fromkeys(self.names, np.nan)
        pair = self.scores if name == COMPARISONS[0] else self.scores[::-1]
        pair = tuple(each[:, chosen].reshape(-1, each.shape[-1]) for each in pair)
        along = sign * residual_projections(pair, patterns.directions[[place]])
        along = along.reshape(1 + len(self.names), -1)
        return dict(zip(self.names, (along[1:] - along[0]).mean(1) / way, strict=True))
