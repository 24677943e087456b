"""Stage 11: how far can the algorithms be driven apart, and what moves their predictions?

Three probes of the models that were trained on all data. The *strongest patch*
(`mdhelpers.analyses.strongest_patch`) is proposed on half of the test images through kept models on
masks, and judged on the other half and on the models on all data, beside its own pixels shuffled
and the features of stage 07. *Sweeps* draw scenes again with one factor at each of its levels, and
say which pairs of factors interact (`mdhelpers.analyses.factor_sweeps`). *Backgrounds* are taken
away or exchanged where masks say where the object is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch

from mdhelpers.analyses import factor_sweeps
from mdhelpers.analyses.strongest_patch import (
    Network,
    StrongestPatch,
    pasted,
    places,
    shuffled,
    strongest_patch,
)
from mdhelpers.base.threads import spread
from mdhelpers.data.datasets import Split
from mdhelpers.data.scenes import crossed_factors, factor_levels, redraw, with_level
from mdhelpers.data.transforms import transform_images
from mdhelpers.method.effects import holm
from mdhelpers.runs.run import Run
from mdhelpers.runs.stage import ALL_DATA, EFFECTS, MODELS, PROBES
from mdhelpers.stages.effect_cases import triple
from mdhelpers.stages.effect_models import EffectModels, read_effect_models
from mdhelpers.stages.effects import StudyEffects, read_effects
from mdhelpers.stages.models import softmax
from mdhelpers.stages.proposals import around, few_of_each, halves, some_networks
from mdhelpers.stages.study import check_patch_class
from mdhelpers.training.augmentation import normalise

ANYWHERE, ONE_PLACE = "anywhere", "one place"
SWAPPED = {
    "original": None,
    "only foreground": "foreground_only",
    "mixed same": {"kind": "swap_background", "within": "class"},
    "mixed rand": {"kind": "swap_background", "within": "any"},
}
GAP = "background gap"  # mixed same less mixed rand
NOWHERE = (-1, -1)  # the place of what has none
SURE, SHOWN = 0.05, 3
THIRDS = ("low", "middle", "high")
FEWEST = 4  # scenes of a class that are swept: levels are chosen on half of them
_EFFECT = dict.fromkeys(("effect", "low", "high", "p"), float)
_PATCH = {"side": int, "class_name": str, "where": str}
_BOTH = [f"{what}{end}" for what in ("effect_1", "effect_2", "difference")
         for end in ("", "_low", "_high")]  # fmt: skip
TABLES = {
    "patch_effects": _PATCH
    | {"row": int, "column": int, "kind": str, "name": str, "intensity": float, "algorithm": int}
    | _EFFECT,
    "patch_steps": _PATCH | {"step": int, "objective": float},
    "sweeps": {"factor": str, "place": int, "level": str, "class_name": str, "algorithm": int}
    | dict.fromkeys(("confidence", "low", "high"), float),
    "swings": dict.fromkeys(("factor", "class_name", "level_1", "level_2"), str)
    | dict.fromkeys((*_BOTH, "p", "p_corrected"), float),
    "pairs": {"algorithm": int, "factor_1": str, "factor_2": str}
    | dict.fromkeys(("share", "p", "p_corrected"), float),
    "backgrounds": {"images": str, "algorithm": int}
    | dict.fromkeys(("accuracy", "low", "high", "p"), float),
}


@dataclass(frozen=True, eq=False)
class StudyProbes:
    """What stage 11 made; each table is empty where a study has nothing to make it of.

    Everywhere, algorithm 0 is what is true of 1 less what is of 2, confidences and accuracies are
    in percentage points, and ``low, high`` is a 95% interval over models and images.

    Attributes
    ----------
    patches : mapping of (side, where) to StrongestPatch
        ``side`` is the algorithm to be moved, ``where`` is "anywhere" or "one place".
    patch_effects
        ``side, class_name, where`` ("" of features), ``row, column`` (-1 where that is anywhere),
        ``kind`` ("patch", "shuffled" or "feature"), ``name`` and ``intensity`` of a feature of
        stage 07, ``algorithm, effect, low, high, p``.
    patch_steps
        ``side, class_name, where, step, objective``, on what the patches were proposed on.
    sweeps
        ``factor, place`` (of the level in its order), ``level, class_name`` ("" of all),
        ``algorithm, confidence, low, high``: mean confidence in the true class.
    swings
        ``factor, class_name`` ("" of all), ``level_1, level_2``: the levels between which the
        algorithms change most unlike on half of the scenes. ``effect_1, effect_2, difference`` with
        intervals, ``p``, ``p_corrected`` (Holm): the change from one to the other, on the other
        half.
    crossed
        The factors of scenes with all factors independent, and ``confidence_0, _1, _2``: means over
        models, 0 to 100.
    pairs
        ``algorithm, factor_1, factor_2, share, p``, see
        `mdhelpers.analyses.factor_sweeps.interactions`; ``p_corrected`` (Holm) of each algorithm.
    backgrounds
        ``images`` ("original", "only foreground", "mixed same", "mixed rand"; and "background
        gap", mixed same less mixed rand), ``algorithm, accuracy, low, high, p``.
    """

    patches: Mapping[tuple[int, str], StrongestPatch]
    patch_effects: pd.DataFrame
    patch_steps: pd.DataFrame
    sweeps: pd.DataFrame
    swings: pd.DataFrame
    crossed: pd.DataFrame
    pairs: pd.DataFrame
    backgrounds: pd.DataFrame


def probe_algorithms(
    run: Run,
    *,
    patch_size: int = 5,
    patch_steps: int = 60,
    patch_class: str = "",
    n_swept: int = 90,
    n_levels: int = 5,
    n_crossed: int = 2000,
    seed: int = 0,
    device: str = "auto",
) -> StudyProbes:
    """Stage 11: the strongest patches, factors and backgrounds.

    Parameters
    ----------
    run
        The run's folder, with both stages of notebook 07 finished.
    patch_size, patch_steps
        Pixels a side, and steps of its optimisation.
    patch_class
        The class whose confidence patches raise; by default that of the study's first hypothesis
        which names the side's algorithm, else the first class.
    n_swept, n_levels
        Test scenes that are drawn again at every level, and levels of factors that are numbers.
    n_crossed
        Scenes with all factors independent.
    seed
        Of patches, their places, scenes and backgrounds.
    device
        Where the models compute; no result depends on it, but for the kind of device.

    """
    patch = {"size": patch_size, "n_steps": patch_steps, "class": patch_class}
    scenes = {"n_swept": n_swept, "n_levels": n_levels, "n_crossed": n_crossed}
    parameters = {"patch": patch, "scenes": scenes, "seed": seed}
    stage = run.stage(PROBES, parameters, after=[MODELS, ALL_DATA, EFFECTS])
    with stage.working() as needed:
        if needed:
            models, tables, found = read_effect_models(run, device=device), {}, {}
            if models.n_models:
                given = patch_size, patch_steps, patch_class
                tables, found = probe_patches(models, *given, read_effects(run), seed)
                tables |= probe_scenes(models, **scenes, seed=seed)
                tables["backgrounds"] = probe_backgrounds(models, seed)
            arrays = {"patches": found} if found else {}
            stage.keep(tables=tables, arrays=arrays, figures=figures_of(tables, models))
    return read_probes(run)


def read_probes(run: Run) -> StudyProbes:
    """What stage 11 wrote."""
    run.check(PROBES)
    none = {name: table_of([], name) for name in TABLES} | {"crossed": pd.DataFrame()}
    tables = none | run.kept(PROBES)
    effects, steps = tables["patch_effects"], tables["patch_steps"]
    patches = {}
    for (side, where), rows in steps.groupby(["side", "where"], sort=False):
        of_it = effects[(effects["side"] == side) & (effects["where"] == where)]
        row, column = (int(of_it[name].iat[0]) for name in ("row", "column"))
        patch = run.kept_arrays(PROBES, "patches")[f"{side} {where}"]
        place = None if where == ANYWHERE else (row, column)
        patches[side, where] = StrongestPatch(patch, place, rows["objective"].to_numpy())
    return StudyProbes(patches, **tables)


def table_of(rows: list, name: str) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=list(TABLES[name])).astype(TABLES[name])


# ---- The strongest patch ------------------------------------------------------------------------


@dataclass(frozen=True)
class PatchCase:
    """A side, the class that its patch is for, and where the patch lies."""

    side: int
    class_name: str
    where: str


Patches = dict[PatchCase, StrongestPatch]


def probe_patches(
    models: EffectModels, size: int, n_steps: int, wanted: str, known: StudyEffects, seed: int
) -> tuple[dict[str, pd.DataFrame], dict[str, np.ndarray]]:
    """Tables of the strongest patches of either side, and the patches; none without networks."""
    targets = sides(known.verdicts, models.dataset.class_names, wanted)
    cases = [PatchCase(*side, where) for side in targets.items() for where in (ANYWHERE, ONE_PLACE)]
    found = propose_patches(models, cases, size, n_steps, seed)
    if not found:
        return {}, {}
    rows = judge_patches(models, found, seed)
    rows += [row for side, target in targets.items() for row in natural_rows(known, side, target)]
    steps = [
        (case.side, case.class_name, case.where, step, value)
        for case, each in found.items()
        for step, value in enumerate(each.objective)
    ]
    tables = {"patch_effects": table_of(rows, "patch_effects")}
    tables["patch_steps"] = table_of(steps, "patch_steps")
    return tables, {f"{case.side} {case.where}": each.patch for case, each in found.items()}


def sides(verdicts: pd.DataFrame, classes: tuple[str, ...], wanted: str) -> dict[int, str]:
    """The class that a patch is for, by the algorithm that it shall move."""
    check_patch_class(wanted, classes)
    own = verdicts[verdicts["source"] == "study"]
    first = {side: own.loc[own["uses"] == side, "class_name"].tolist() for side in (1, 2)}
    return {side: wanted or (first[side] or classes)[0] for side in (1, 2)}


def propose_patches(
    models: EffectModels, cases: list[PatchCase], size: int, n_steps: int, seed: int
) -> Patches:
    """Patches optimised on half of the test images through kept models on masks."""
    networks, device = patch_networks(models), models.study.plan.here
    if not all(networks):
        return {}
    rows, _ = halves(len(models.dataset.test), seed)
    images, classes = models.dataset.test.images[rows], models.dataset.class_names

    def optimise(case: PatchCase) -> StrongestPatch:
        return strongest_patch(
            networks if case.side == 1 else networks[::-1],
            images,
            label=classes.index(case.class_name),
            size=size,
            n_steps=n_steps,
            one_place=case.where == ONE_PLACE,
            seed=seed,
            device=device,
        )

    return dict(zip(cases, spread(optimise, cases), strict=True))


def patch_networks(models: EffectModels) -> tuple[list[Network], list[Network]]:
    """Kept networks of both algorithms, as `mdhelpers.analyses.strongest_patch` takes them."""
    device = models.study.plan.here
    one, two = ([net.to(device) for net in some_networks(models.study, a)] for a in (1, 2))
    return [partial(logits_of, net) for net in one], [partial(logits_of, net) for net in two]


def logits_of(net: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    own = images.clone()  # `normalise` writes into floats
    return net(normalise(own).permute(0, 3, 1, 2))


def judged_places(
    images: np.ndarray, found: StrongestPatch, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Where a patch, and its pixels shuffled, lie in the images that it is judged on."""
    rng = np.random.default_rng([seed, 18])
    return places(len(images), images.shape[1:3], len(found.patch), rng, found.place)


def judged_images(
    models: EffectModels, found: StrongestPatch, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """The test images that a patch is judged on, without it and with it."""
    _, rows = halves(len(models.dataset.test), seed)
    images = models.dataset.test.images[rows]
    return images, pasted(images, found.patch, *judged_places(images, found, seed))


def judge_patches(models: EffectModels, found: Patches, seed: int) -> list[tuple]:
    """Rows of ``patch_effects``: what patches do to other models and images, and shuffled ones."""
    _, rows = halves(len(models.dataset.test), seed)
    images, parts = models.dataset.test.images[rows], {}
    for case, each in found.items():
        there = judged_places(images, each, seed)
        parts[case, "patch"] = partial(pasted, images, each.patch, *there)
        parts[case, "shuffled"] = partial(pasted, images, shuffled(each.patch, seed), *there)
    seen, table = confidences(models, {"before": lambda: images} | parts), []
    for case, kind in parts:
        label = models.dataset.class_names.index(case.class_name)
        before, after = ([x[..., label] for x in seen[key]] for key in ("before", (case, kind)))
        about = case.side, case.class_name, case.where, *(found[case].place or NOWHERE)
        effects = effect_rows(models, before, after)
        table += [(*about, kind, "", np.nan, *effect) for effect in effects]
    return table


def natural_rows(known: StudyEffects, side: int, target: str) -> list[tuple]:
    """Rows of ``patch_effects``: what stage 07's features do to a class, at their verdicts' dose.

    Of a transformation that was tested on several classes, the test on this one counts.
    """
    told = known.verdicts.assign(own=known.verdicts["class_name"] == target)
    told = told.sort_values("own", ascending=False, kind="stable")
    told = told.drop_duplicates("transformation")[["hypothesis", "intensity"]]
    of_class = (known.effects["class_name"] == target) & (known.effects["kind"] == "feature")
    listed = known.effects[of_class].merge(told, on=["hypothesis", "intensity"])
    return [
        (side, target, "", *NOWHERE, "feature", *row)
        for row in listed[["transformation", "intensity", "algorithm", *_EFFECT]].itertuples(False)
    ]


# ---- Sweeps of factors --------------------------------------------------------------------------


def probe_scenes(
    models: EffectModels, *, n_swept: int, n_levels: int, n_crossed: int, seed: int
) -> dict[str, pd.DataFrame]:
    """Tables of sweeps and of pairs of factors; none where the factors of images are not known."""
    data = models.dataset
    if data.name != "scenes":
        return {}
    size, test = data.size[0], data.test
    rows = few_of_each(test.labels, np.arange(len(test)), n_swept // len(data.class_names), seed)
    scenes, levels = test.metadata.iloc[rows].reset_index(drop=True), factor_levels(n_levels)
    features = [*data.train.truth.columns]
    crossed = crossed_factors(n_crossed, features=features, seed=seed)
    parts = {"swept": partial(swept_images, scenes, levels, size, seed)}
    parts["crossed"] = lambda: redraw(crossed, size, seed=seed + 1).images
    seen = confidences(models, parts)
    n = sum(map(len, levels.values()))
    labels = np.tile(test.labels[rows], n)
    swept = [true_class(each, labels).reshape(-1, n, len(rows)) for each in seen["swept"]]
    means = [true_class(each, crossed["label"]).mean(0) for each in seen["crossed"]]
    outcomes = 100 * np.stack([means[0] - means[1], *means])
    tables = sweep_tables(models, swept, levels, scenes["class_name"].to_numpy())
    tables["crossed"] = crossed.assign(**{f"confidence_{a}": y for a, y in enumerate(outcomes)})
    return tables | {"pairs": pair_table(tables["crossed"])}


def swept_images(
    scenes: pd.DataFrame, levels: Mapping[str, list], size: int, seed: int
) -> np.ndarray:
    """The same scenes at each level of each factor, (n_levels of all n_scenes, size, size, 3)."""
    each = ((name, level) for name, values in levels.items() for level in values)
    drawn = (redraw(with_level(scenes, *one), size, seed=seed).images for one in each)
    return np.concatenate([*drawn])


def true_class(confidence: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Of confidences (n_models, n_images, n_classes), those in each image's label."""
    return confidence[:, np.arange(len(labels)), np.asarray(labels)]


def sweep_tables(
    models: EffectModels,
    swept: list[np.ndarray],
    levels: Mapping[str, list],
    class_names: np.ndarray,
) -> dict[str, pd.DataFrame]:
    """Sweeps and swings, from confidences (n_models, n_levels of all, n_scenes) of either."""
    sweeps, swings, start = [], [], 0
    for name, values in levels.items():
        part = [each[:, start : start + len(values)] for each in swept]
        start += len(values)
        words = [level_word(value) for value in values]
        for class_name in ("", *models.dataset.class_names):
            rows = np.flatnonzero((class_names == class_name) | (class_name == ""))
            chosen = [each[:, :, rows] for each in part]
            for place, word in enumerate(words):
                found = level_rows(models, [each[:, place] for each in chosen])
                about = name, place, word, class_name
                sweeps += [(*about, a, *row) for a, *row, _ in found if a]
            if len(rows) >= FEWEST:
                swings.append((name, class_name, *swing(models, chosen, words)))
    swings = table_of([(*row, row[-1]) for row in swings], "swings")
    swings["p_corrected"] = holm(swings["p"])
    return {"sweeps": table_of(sweeps, "sweeps"), "swings": swings}


def swing(models: EffectModels, chosen: list[np.ndarray], words: list[str]) -> tuple:
    """The two levels between which the algorithms change most unlike, and the changes there.

    Levels are chosen on every other scene, and changes measured on those between.
    """
    first, last = factor_sweeps.widest(*(each[:, :, ::2].swapaxes(0, 1) for each in chosen))
    before, after = ([each[:, at, 1::2] for each in chosen] for at in (first, last))
    found = triple([*zip(before, after, strict=True)], [models.slots(a) for a in (1, 2)])
    numbers = [x for effect in found for x in (effect.mean, effect.low, effect.high)]
    return words[first], words[last], *numbers, found[2].p


def level_word(value: Any) -> str:
    """A level as tables and figures have it."""
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    return f"{value:.2g}" if isinstance(value, float) else value or "none"


def pair_table(crossed: pd.DataFrame) -> pd.DataFrame:
    """Which pairs of factors interact under either algorithm, and unlike under both."""
    levels = crossed_levels(crossed)
    outcomes = crossed[[f"confidence_{a}" for a in (0, 1, 2)]].to_numpy().T
    found = factor_sweeps.interactions(outcomes, levels).rename(columns={"outcome": "algorithm"})
    corrected = found.groupby("algorithm")["p"].transform(lambda p: holm(p.to_numpy()))
    table = found.assign(p_corrected=corrected)[list(TABLES["pairs"])].astype(TABLES["pairs"])
    return table.sort_values("share", ascending=False, kind="stable", ignore_index=True)


def crossed_levels(crossed: pd.DataFrame) -> pd.DataFrame:
    """The factors of crossed scenes that vary, in levels; numbers in thirds."""
    names = ["class_name", *factor_levels(2)]
    levels = {name: factor_sweeps.binned(crossed[name]) for name in names}
    return pd.DataFrame({name: each for name, each in levels.items() if each.max() > 0})


def level_names(column: pd.Series) -> pd.Series:
    """The levels of a factor of crossed scenes in words, in order; of numbers, their thirds."""
    levels, numbers = factor_sweeps.binned(column), column.dtype.kind == "f"
    words = THIRDS if numbers else [level_word(value) for value in np.unique(column)]
    return pd.Series(pd.Categorical.from_codes(levels, words, ordered=True), name=column.name)


# ---- Backgrounds --------------------------------------------------------------------------------


def probe_backgrounds(models: EffectModels, seed: int) -> pd.DataFrame:
    """Accuracies with backgrounds taken away and exchanged; no rows where no masks are known."""
    test = models.dataset.test
    if test.foreground is None:
        return table_of([], "backgrounds")
    parts = {name: partial(swapped_images, test, kind, seed) for name, kind in SWAPPED.items()}
    right = {
        name: [(each.argmax(-1) == test.labels).astype(float) for each in both]
        for name, both in confidences(models, parts).items()
    }
    rows = [(name, *row) for name, both in right.items() for row in level_rows(models, both)]
    gap = effect_rows(models, right["mixed rand"], right["mixed same"])
    return table_of(rows + [(GAP, *row) for row in gap], "backgrounds")


def swapped_images(test: Split, kind: Any, seed: int) -> np.ndarray:
    if kind is None:
        return test.images
    return transform_images(kind, test.images, 100, seed=seed, around=around(test))


# ---- What all three share -----------------------------------------------------------------------


def confidences(
    models: EffectModels, parts: Mapping[Any, Callable[[], np.ndarray]]
) -> dict[Any, tuple[np.ndarray, np.ndarray]]:
    """Confidences (n_models, n_images, n_classes) of both algorithms in images, by their name.

    Models that train anew with each call (`TrainedModels.retrains`) are given all images at once,
    others a part after the other, which takes less memory.
    """
    kept, n = [models.kept(a) for a in (1, 2)], models.n_models
    if not any(stack.retrains for stacks in kept for stack in stacks):
        made = ((name, make()) for name, make in parts.items())
        return {name: tuple(softmax(each, images, n) for each in kept) for name, images in made}
    images = [make() for make in parts.values()]
    ends = np.cumsum([len(part) for part in images])[:-1]
    both = [np.split(softmax(each, np.concatenate(images), n), ends, axis=1) for each in kept]
    return dict(zip(parts, zip(*both, strict=True), strict=True))


def effect_rows(models: EffectModels, before, after) -> list[tuple]:
    """``algorithm, effect, low, high, p`` of a change, of algorithms 1 and 2 and 1 less 2."""
    slots = [models.slots(a) for a in (1, 2)]
    found = triple([*zip(before, after, strict=True)], slots)
    return [(a, e.mean, e.low, e.high, e.p) for a, e in zip((1, 2, 0), found, strict=True)]


def level_rows(models: EffectModels, values: list[np.ndarray]) -> list[tuple]:
    """The same of what stands at a level, (n_models, n_images) in [0, 1]: its change from 0."""
    return effect_rows(models, [np.zeros_like(each) for each in values], values)


def figures_of(tables: Mapping[str, pd.DataFrame], models: EffectModels) -> dict[str, Any]:
    """The strongest patches beside the strongest features, swings, pairs, and the gap."""
    figures: dict[str, Any] = {"n_models": models.n_models}
    if "patch_effects" in tables:
        figures["patches"] = patch_figures(tables["patch_effects"])
    if "swings" in tables:
        sure = tables["swings"].query("p_corrected < @SURE")
        order = sure["difference"].abs().sort_values(ascending=False, kind="stable").index
        figures["swings"] = sure.loc[order].head(SHOWN).to_dict("records")
        sure = tables["pairs"].query("p_corrected < @SURE")
        strongest = {str(a): rows.head(SHOWN) for a, rows in sure.groupby("algorithm")}
        figures["pairs"] = {a: rows.to_dict("records") for a, rows in strongest.items()}
    if len(tables.get("backgrounds", ())):
        gap = tables["backgrounds"].query("images == @GAP")
        figures["background_gap"] = {
            str(row.pop("algorithm")): row for row in gap.to_dict("records")
        }
    return figures


def patch_figures(table: pd.DataFrame) -> dict[str, Any]:
    """By side: differences of the patches, and of the feature that shows the largest."""
    figures = {}
    for side, rows in table[table["algorithm"] == 0].groupby("side"):
        sign = 1 if side == 1 else -1
        told = {"class_name": rows["class_name"].iat[0]}
        for (where, kind), row in rows[rows["kind"] != "feature"].groupby(["where", "kind"]):
            word = where.replace(" ", "_") + ("" if kind == "patch" else "_shuffled")
            told[word] = row[["effect", "low", "high"]].iloc[0].to_dict()
        features = rows[rows["kind"] == "feature"]
        if len(features):
            best = features.loc[(sign * features["effect"]).idxmax()]
            told["feature"] = best[["name", "effect", "low", "high"]].to_dict()
        figures[f"side_{side}"] = told
    return figures
