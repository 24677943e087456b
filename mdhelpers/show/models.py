"""Page 02: what the algorithms are, what training took, and how good the models are."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from mdhelpers.show.style import ALGORITHM_COLORS, INK, histogram, label_text
from mdhelpers.stages.models import StudyModels


def algorithms(models: StudyModels) -> pd.DataFrame:
    """Both algorithms' specifications side by side, what differs first."""
    specs = [flat(spec.model_dump()) for spec in models.plan.algorithms]
    table = pd.DataFrame(specs, index=["algorithm 1", "algorithm 2"]).T
    one, two = (table[f"algorithm {a}"].where(table[f"algorithm {a}"].notna(), "–") for a in (1, 2))
    differs = one.astype(str) != two.astype(str)
    table = pd.DataFrame({one.name: one, two.name: two, "differs": np.where(differs, "yes", "")})
    return table.loc[[*table.index[differs], *table.index[~differs]]]


def flat(spec: dict, prefix: str = "") -> dict:
    found = {}
    for key, value in spec.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def throughput(models: StudyModels) -> pd.DataFrame | str:
    """Models, core-seconds and accuracy of each algorithm, from the training log.

    Where test images belong to groups, the accuracy on each model's worst one too.
    """
    if models.made_elsewhere:
        return "These models were trained elsewhere, in a time that is not known."
    rows = []
    for algorithm, name in enumerate(models.names, 1):
        trained = models.all(algorithm)
        rows.append((name, len(trained.masks), trained.seconds.mean(), trained.accuracy.mean()))
    columns = ["algorithm", "models", "core-seconds per model", "mean test accuracy"]
    table = pd.DataFrame(rows, columns=columns).set_index("algorithm")
    worst = [models.worst_group(algorithm) for algorithm in (1, 2)]
    if any(each is not None for each in worst):
        table["mean worst-group accuracy"] = [np.nan if w is None else w.mean() for w in worst]
    return table.round(3)


def accuracy_histogram(ax: Axes, accuracies: Mapping[str, np.ndarray]) -> Axes:
    """Test accuracies of the models, (n_models,), of either algorithm."""
    percent = {name: 100 * np.asarray(a) for name, a in accuracies.items()}
    if any(np.isfinite(values).all() for values in percent.values()):
        histogram(ax, percent, "{name}: mean {mean:.1f}%")
    else:
        ax.text(0.5, 0.5, "not known of these models", ha="center", transform=ax.transAxes)
    ax.set(xlabel="test accuracy of a model (%)", ylabel="share of models (%)")
    return ax


def margin_histogram(ax: Axes, margins: Mapping[str, np.ndarray]) -> Axes:
    """Margins of all models, (n_models, n_test), on all test images; left of zero one is wrong."""
    histogram(ax, margins, "{name}: mean {mean:.1f}", bins=60)
    ax.axvline(0, color=INK, linewidth=1)
    ax.text(0, 1.0, "wrong ← ", ha="right", va="bottom", transform=ax.get_xaxis_transform())
    ax.text(0, 1.0, " → right", ha="left", va="bottom", transform=ax.get_xaxis_transform())
    ax.set(xlabel="correct-class margin (logits)", ylabel="share of model–image pairs (%)")
    return ax


def loss_curves(ax: Axes, losses: Mapping[str, np.ndarray]) -> Axes:
    """Mean training loss of each epoch, (n_models, n_epochs), of either algorithm."""
    for (name, curves), color in zip(losses.items(), ALGORITHM_COLORS.values(), strict=True):
        epochs = np.arange(1, curves.shape[1] + 1)
        lines = ax.plot(epochs, np.asarray(curves).T, color=color, alpha=0.6, linewidth=1)
        lines[0].set_label(label_text(name))
    if not any(np.isfinite(curves).any() for curves in losses.values()):
        ax.text(0.5, 0.5, "not known of these models", ha="center", transform=ax.transAxes)
    ax.set(xlabel="epoch", ylabel="training loss (cross-entropy)", ylim=(0, None))
    ax.legend(frameon=False)
    return ax
