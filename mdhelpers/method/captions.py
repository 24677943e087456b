r"""Name a subpopulation by the captions that set it apart (App. F.5 of the paper).

C_i holds the cosines of image i with every caption of a bank. The *score* of a caption is the
difference between the mean of C over the images of a subpopulation S and the mean over a reference
R,

.. math:: \frac{1}{|S|} \sum_{i \in S} C_i - \frac{1}{|R|} \sum_{i \in R} C_i ,

where R is all images, as in the paper; or the images of the same class, without which the name of
the class comes first wherever a subpopulation lies in one class; or the other end of the direction.

Three more columns say what a score is worth. ``z`` divides it by its spread over random groups.
``auc`` is how well the caption tells the subpopulation from the reference (VisDiff, Dunlap et al.
2024), with DeLong's interval. ``stability`` is how often half of the images name a caption that
the other half names too.

Captions are in the order of ``z``. The AUC counts ranks: where only some members show the feature,
they lie far above the others, which a mean sees and ranks hardly do, so that it misses more of what
was planted. The score finds as much of it as ``z``, but cosines with some captions vary much more
between images of one class than others, and those have the largest scores in random groups too.
``benchmarks/captions.py`` measures all three.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.special import ndtri
from scipy.stats import rankdata

HALVINGS = 200
FIRST = 5  # captions by which one half of the images names a subpopulation,
AGAIN = 10  # and those of the other half among which they are looked for
STABLE = 0.5  # a caption found again less often than this is named by chance
BLOCK = 2048  # captions compared at a time


def distinguishing_captions(
    image_embeddings: np.ndarray,
    text_embeddings: np.ndarray,
    bank: list[str],
    members: np.ndarray,
    *,
    labels: np.ndarray | None = None,
    others: np.ndarray | None = None,
    top: int = 10,
    seed: int = 0,
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
        (n,) int: each member is compared with the images of its own class.
    others
        (m,) int: the members are compared with these images alone, as the other end of a direction.
        Without labels and others the reference is all images.
    top
        How many captions to return.
    seed
        Of the halvings.

    Returns
    -------
    DataFrame
        ``rank`` (from 1), ``caption``; ``auc``, ``auc_low`` and ``auc_high``: the chance that a
        member fits the caption better than an image of the reference which is no member, and its
        95% interval (`auc_with_interval`); ``score`` (difference of the two means of the cosine);
        ``z``: the score over its standard deviation if the members were drawn at random without
        replacement, as many of each class where labels are given; ``stability``
        (`found_again`); ``similarity_in`` and ``similarity_reference`` (the two means). ``z`` is
        exact, and no test: the best of a bank has a large z by selection alone, and so has its AUC.

    Raises
    ------
    ValueError
        For sizes that do not agree, indices out of range, and both labels and others.

    """
    members = np.asarray(members)
    check_members(image_embeddings, text_embeddings, bank, members, labels)
    classes = groups(len(image_embeddings), members, labels, others)
    images = image_embeddings.astype(np.float64)
    texts = text_embeddings.astype(np.float64)
    blocks = (images @ texts[i : i + BLOCK].T for i in range(0, len(texts), BLOCK))
    parts = zip(*(above_class(block, classes, members) for block in blocks), strict=True)
    above, spread = (np.concatenate(part, axis=-1) for part in parts)
    in_spreads = np.divide(above, spread, out=np.zeros_like(above), where=spread > 1e-12)
    z, stability = in_spreads.mean(axis=0), found_again(in_spreads, seed=seed)
    best = np.argsort(-z, kind="stable")[:top]
    similarity = images @ texts[best].T
    inside = similarity[members].mean(axis=0)
    reference = inside - above[:, best].mean(axis=0)
    if others is not None:
        reference = similarity[others].mean(axis=0)
    table = {"rank": np.arange(1, len(best) + 1), "caption": [bank[i] for i in best]}
    table |= auc_with_interval(similarity, classes, members)
    table |= {"score": inside - reference, "z": z[best], "stability": stability[best]}
    return pd.DataFrame(table | {"similarity_in": inside, "similarity_reference": reference})


def groups(n: int, members: np.ndarray, labels, others) -> np.ndarray:
    """(n,) int: images are compared within the same number; those with -1 are left out."""
    if others is None:
        return np.zeros(n, int) if labels is None else np.unique(labels, return_inverse=True)[1]
    others = np.asarray(others)
    if labels is not None:
        raise ValueError("give labels or others, not both: they are two references")
    if len(others) == 0 or others.min() < 0 or others.max() >= n or np.isin(others, members).any():
        raise ValueError(f"others must be indices from 0 to {n - 1} not among the members")
    classes = np.full(n, -1)
    classes[members] = classes[others] = 0
    return classes


def above_class(
    similarity: np.ndarray, classes: np.ndarray, members: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Members' similarity to each caption above the mean of their class, and what is random in it.

    The latter is the standard deviation of its mean over random subsets with as many images of each
    class as ``members``: sampling without replacement from N_c images gives the mean of k_c of them
    the variance S_c² / k_c · (1 − k_c / N_c).

    Returns
    -------
    above : (k, n_captions) float64
    spread : (n_captions,) float64

    """
    own, variance = classes[members], np.zeros(similarity.shape[1])
    above = np.empty((len(members), similarity.shape[1]))
    for name, count in zip(*np.unique(own, return_counts=True), strict=True):
        those = similarity[classes == name]
        above[own == name] = similarity[members[own == name]] - those.mean(axis=0)
        if len(those) > 1:
            left = 1 - count / len(those)
            variance += count * left * those.var(axis=0, ddof=1) / len(members) ** 2
    return above, np.sqrt(variance)


def found_again(values: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """How often a caption by which one random half of the images goes, the other half has too.

    Over random halvings of the k images: of the halves among whose first `FIRST` captions one is,
    the share whose other halves have it among their first `AGAIN`. Banks of fewer than a hundred
    captions are asked for fewer. A bootstrap would not do: it draws around the images that made the
    caption come first, so that captions of random images look stable too.

    Parameters
    ----------
    values
        (k, n_captions): what is averaged over images to put captions in order.
    seed
        Of the halvings.

    Returns
    -------
    (n_captions,) float64
        From 0 to 1; 0 for captions that are never among the first, and of a single image.

    """
    k, n_captions = values.shape
    if k < 2:
        return np.zeros(n_captions)
    rng = np.random.default_rng([seed, 106])
    order = rng.permuted(np.tile(np.arange(k), (HALVINGS, 1)), axis=1)
    half = np.zeros((HALVINGS, k))
    np.put_along_axis(half, order[:, : k // 2], 1.0, axis=1)
    means = half @ values / (k // 2), (1 - half) @ values / (k - k // 2)
    first = min(FIRST, 1 + n_captions // 20)
    again = max(first, min(2 * first, n_captions // 2))
    named = sum(largest(mean, first).sum(axis=0) for mean in means)
    both = sum(
        (largest(one, first) & largest(other, again)).sum(axis=0)
        for one, other in (means, means[::-1])
    )
    return np.divide(both, named, out=np.zeros(n_captions), where=named > 0)


def largest(values: np.ndarray, n: int) -> np.ndarray:
    """Which are the ``n`` largest of each row, bool."""
    chosen = np.zeros(values.shape, bool)
    best = np.argpartition(-values, n - 1, axis=1)[:, :n]
    np.put_along_axis(chosen, best, True, axis=1)
    return chosen


def auc_with_interval(
    similarity: np.ndarray, classes: np.ndarray, members: np.ndarray
) -> dict[str, np.ndarray]:
    r"""AUC of each caption with which members come before others of their class, and its interval.

    With :math:`V_i`, the share of the others of its class that member i lies above (ties count
    half), and :math:`W_j`, the share of the members that lie above the other image j, both have
    the AUC for their mean, and its variance is (DeLong et al. 1988)

    .. math:: \mathrm{var}(V) / k + \mathrm{var}(W) / m .

    Over classes, AUCs are averaged with the members' numbers for weights: :math:`V` is taken over
    all members, and the second term with the squared weights. The interval is normal, cut at 0
    and 1. Where all members lie above all others, the variance is 0 and says nothing; the lower
    bound is then that of as many disjoint pairs in the right order, :math:`0.025^{1/q}`.

    Parameters
    ----------
    similarity
        (n, n_captions).
    classes
        (n,) int; members are compared with the other images of their number.
    members
        (k,) int.

    Returns
    -------
    dict
        auc, auc_low, auc_high, each (n_captions,) float64; NaN where no class of a member has
        another image.

    """
    own, inside, outside, pairs = classes[members], [], 0.0, 0
    reference = np.ones(len(classes), bool)
    reference[members] = False
    for name in np.unique(own):
        those, rest = members[own == name], np.flatnonzero((classes == name) & reference)
        if len(rest):
            above, below = placements(similarity[those], similarity[rest])
            inside.append(above)
            outside = outside + len(those) ** 2 * variance_of_mean(below)
            pairs += min(len(those), len(rest))
    if not inside:
        return dict.fromkeys(("auc", "auc_low", "auc_high"), np.full(similarity.shape[1], np.nan))
    inside = np.concatenate(inside)
    auc = inside.mean(axis=0)
    half = ndtri(0.975) * np.sqrt(variance_of_mean(inside) + outside / len(inside) ** 2)
    apart = 0.025 ** (1 / pairs)
    low = np.where(auc == 1, apart, np.maximum(auc - half, 0))
    high = np.where(auc == 0, 1 - apart, np.minimum(auc + half, 1))
    return {"auc": auc, "auc_low": low, "auc_high": high}


def placements(inside: np.ndarray, outside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Shares of ``outside`` (m, c) below each row of ``inside`` (k, c), and of the latter above.

    From ranks, so that they are had in the time of sorting (Sun and Xu 2014).
    """
    k, m = len(inside), len(outside)
    ranks = rankdata(np.concatenate([inside, outside]), axis=0)
    above = (ranks[:k] - rankdata(inside, axis=0)) / m
    return above, 1 - (ranks[k:] - rankdata(outside, axis=0)) / k


def variance_of_mean(values: np.ndarray) -> np.ndarray:
    """Of the mean over rows; infinite for a single one, from which it cannot be told."""
    if len(values) == 1:
        return np.full(values.shape[1], np.inf)
    return values.var(axis=0, ddof=1) / len(values)


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
        raise ValueError(f"{len(labels)} labels for {n} images; give one per image")
