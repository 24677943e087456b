"""Name a subpopulation by the captions that set it apart (App. F.5 of the paper).

C_i holds the cosines of image i with every caption of a bank. The distinguishing captions of a
subpopulation are those with the largest difference between the mean of C over its images and the
mean over the reference: all images, as in the paper, or the images of the same class, without
which the name of the class comes first wherever a subpopulation lies in one class.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from mdhelpers.descriptions import WORDS, scene_captions, words_of
from mdhelpers.encoders import Encoder, embed_images, embed_texts, load_named
from mdhelpers.paths import resolve
from mdhelpers.studies import CaptionSpec

WORD_LIST = Path(__file__).with_name("words.txt")


def load_clip(
    spec: CaptionSpec,
    *,
    cache_dir: Path | str,
    size: int = 24,
    seed: int = 0,
    steps: int = 1000,
    device: str = "cpu",
) -> Encoder | None:
    """The encoder that a study asks for; None where its captions are off (``model: none``).

    Parameters
    ----------
    spec
        ``model`` is "small" (trained on generated scenes and kept in ``cache_dir``), "none", or
        an open_clip model with ``pretrained``, a tag or the path of a checkpoint.
    cache_dir
        Folder for the small CLIP's weights.
    size
        Height and width of the scenes in pixels; for the small CLIP.
    seed, steps
        Of the small CLIP's training.
    device
        For a named model; the small CLIP stays on the CPU.

    Raises
    ------
    ValueError
        See `encoders.load_named`.

    """
    if spec.model == "none":
        return None
    if spec.model == "small":
        if spec.pretrained:
            raise ValueError(
                f"captions.pretrained is {spec.pretrained!r}, but the small CLIP is trained here; "
                "leave it empty or name an open_clip model as captions.model"
            )
        from mdhelpers.small_clip import load_or_train

        return load_or_train(cache_dir, size=size, seed=seed, steps=steps)
    return load_named(spec.model, spec.pretrained, device=device)


def caption_bank(spec: CaptionSpec) -> list[str]:
    """The captions to choose from: the study's own, or the default ones of its model.

    ``spec.bank`` is a list, or the path of a text file with a caption a line (``#`` begins a
    comment). The default for the small CLIP is `descriptions.scene_captions`, for other models
    a list of words for what pictures show (`words.txt`).

    Raises
    ------
    ValueError
        For a file that is missing, fewer than two captions, and captions with words that the
        small CLIP never read; they are named.

    """
    if not spec.bank:
        return scene_captions() if spec.model == "small" else read_captions(WORD_LIST)
    given = read_captions(resolve(spec.bank)) if isinstance(spec.bank, str) else spec.bank
    bank = list(dict.fromkeys(caption.strip() for caption in given if caption.strip()))
    if len(bank) < 2:
        raise ValueError(f"captions.bank has {len(bank)} captions; at least 2 are needed")
    if spec.model == "small":
        refuse_unread(bank)
    return bank


def read_captions(path: Path) -> list[str]:
    """One caption a line; empty lines and what follows ``#`` are left out."""
    if not path.is_file():
        raise ValueError(f"captions.bank: no file {path}; pass a list or a text file of captions")
    lines = (line.partition("#")[0].strip() for line in path.read_text("utf-8").splitlines())
    return list(dict.fromkeys(line for line in lines if line))


def refuse_unread(bank: list[str]) -> None:
    """ValueError if a caption has a word that the small CLIP was not taught."""
    unread = {caption: sorted(set(words_of(caption)) - WORDS) for caption in bank}
    unread |= {caption: ["(no word)"] for caption in bank if not words_of(caption)}
    faults = [f"{caption!r} ({', '.join(words)})" for caption, words in unread.items() if words]
    if faults:
        raise ValueError(
            f"captions.bank: the small CLIP never read the words of {'; '.join(faults[:10])}"
            f"{f' and {len(faults) - 10} more' if len(faults) > 10 else ''}. "
            f"It knows: {', '.join(sorted(WORDS))}"
        )


def distinguishing_captions(
    image_embeddings: np.ndarray,
    text_embeddings: np.ndarray,
    bank: list[str],
    members: np.ndarray,
    *,
    labels: np.ndarray | None = None,
    top: int = 10,
) -> pd.DataFrame:
    """The captions that set the images ``members`` apart, best first (App. F.5).

    Parameters
    ----------
    image_embeddings
        (n, width) float32 of unit length, of all images.
    text_embeddings
        (n_captions, width) float32 of unit length.
    bank
        The n_captions captions.
    members
        (k,) int, indices of the subpopulation.
    labels
        (n,) int, or None. With labels each member is compared with the images of its own class,
        without with all images.
    top
        How many captions to return.

    Returns
    -------
    DataFrame
        ``rank`` (from 1), ``caption``, ``score`` (difference of the two means of the cosine),
        ``similarity_in`` and ``similarity_reference`` (the two means), and ``z``: the score over
        its standard deviation if the members were drawn at random without replacement, as many
        of each class where labels are given. It is exact, and no test: the best of a bank has a
        large z by selection alone.

    Raises
    ------
    ValueError
        For sizes that do not agree and indices out of range.

    """
    members = np.asarray(members)
    check_members(image_embeddings, text_embeddings, bank, members, labels)
    similarity = image_embeddings.astype(np.float64) @ text_embeddings.astype(np.float64).T
    inside = similarity[members].mean(axis=0)
    classes = np.zeros(len(similarity), int) if labels is None else np.asarray(labels)
    reference, spread = random_subset(similarity, classes, members)
    score = inside - reference
    z = np.divide(score, spread, out=np.zeros_like(score), where=spread > 1e-12)
    best = np.argsort(-score, kind="stable")[:top]
    return pd.DataFrame(
        {
            "rank": np.arange(1, len(best) + 1),
            "caption": [bank[i] for i in best],
            "score": score[best],
            "z": z[best],
            "similarity_in": inside[best],
            "similarity_reference": reference[best],
        }
    )


def check_members(image_embeddings, text_embeddings, bank, members, labels) -> None:
    n, width = image_embeddings.shape
    if text_embeddings.shape != (len(bank), width):
        raise ValueError(
            f"text embeddings are {text_embeddings.shape}, expected {(len(bank), width)}: one row "
            "a caption of the bank, as wide as the image embeddings"
        )
    if members.ndim != 1 or len(members) == 0 or not np.issubdtype(members.dtype, np.integer):
        raise ValueError(f"members must be a list of indices, got {members.shape} {members.dtype}")
    if len(np.unique(members)) < len(members) or members.min() < 0 or members.max() >= n:
        raise ValueError(f"members must be different indices from 0 to {n - 1}")
    if labels is not None and len(labels) != n:
        raise ValueError(f"{len(labels)} labels for {n} images; give one an image")


def random_subset(
    similarity: np.ndarray, classes: np.ndarray, members: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation, over random subsets, of the mean similarity to each caption.

    The subsets have as many images of each class as ``members``: sampling without replacement
    from N_c images gives the mean of k_c of them the variance S_c² / k_c · (1 − k_c / N_c).
    """
    mean, variance = np.zeros(similarity.shape[1]), np.zeros(similarity.shape[1])
    for name, count in zip(*np.unique(classes[members], return_counts=True), strict=True):
        those = similarity[classes == name]
        mean += count / len(members) * those.mean(axis=0)
        if len(those) > 1:
            left = 1 - count / len(those)
            variance += count * left * those.var(axis=0, ddof=1) / len(members) ** 2
    return mean, np.sqrt(variance)


def caption_subpopulations(
    encoder: Encoder,
    images: np.ndarray,
    subpopulations: pd.DataFrame,
    bank: list[str],
    *,
    labels: np.ndarray | None = None,
    top: int = 10,
) -> pd.DataFrame:
    """Distinguishing captions of every subpopulation of a table.

    Parameters
    ----------
    encoder
        From `load_clip`.
    images
        (n, H, W, 3) uint8, the images that the subpopulations index.
    subpopulations
        Columns ``comparison``, ``direction``, ``end``, ``index``, a row a member.
    bank
        From `caption_bank`.
    labels
        (n,) int or None; with labels each subpopulation is also compared with its own classes.
    top
        Captions a subpopulation and reference.

    Returns
    -------
    DataFrame
        ``comparison``, ``direction``, ``end``, ``reference`` ("all" or "class") and the columns
        of `distinguishing_captions`.

    """
    seen, read = embed_images(encoder, images), embed_texts(encoder, bank)
    references = {"all": None} if labels is None else {"all": None, "class": labels}
    parts = []
    keys = ["comparison", "direction", "end"]
    for key, rows in subpopulations.groupby(keys, sort=False, observed=True):
        for reference, classes in references.items():
            named = distinguishing_captions(
                seen, read, bank, rows["index"].to_numpy(), labels=classes, top=top
            )
            where = dict(zip(keys, key, strict=True)) | {"reference": reference}
            parts.append(named.assign(**where)[[*where, *named.columns]])
    return pd.concat(parts, ignore_index=True)
