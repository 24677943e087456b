r"""Name a subpopulation by the captions that set it apart (App. F.5 of the paper).

C_i holds the cosines of image i with every caption of a bank. The distinguishing captions of a
subpopulation S are those with the largest difference between the mean of C over its images and the
mean over the reference R,

.. math:: \frac{1}{|S|} \sum_{i \in S} C_i - \frac{1}{|R|} \sum_{i \in R} C_i ,

which is all images, as in the paper, or the images of the same class, without
which the name of the class comes first wherever a subpopulation lies in one class.
"""

from __future__ import annotations

import numpy as np
import pandas as pd


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
