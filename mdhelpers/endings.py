"""Which weights a model ends with: the last, an average, the best epoch's, or those at a stop.

A stack trains its models together, and each one ends as if it had been trained alone.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.optim.swa_utils import update_bn

from mdhelpers.algorithms import NetworkSpec
from mdhelpers.stacking import StackedNetwork


class Endings:
    """Watches a stack while it trains and gives each model its final weights.

    Parameters
    ----------
    spec
        The recipe: ``stop_at_loss``, ``validation_share`` and ``average_last`` decide.
    stack
        The models, which this changes in `finish` only.
    n_steps
        Steps of the whole training.

    """

    def __init__(self, spec: NetworkSpec, stack: StackedNetwork, n_steps: int):
        self.spec, self.stack = spec, stack
        self.first_averaged = round((1 - spec.average_last) * n_steps)
        self.kept: dict[int, dict[str, torch.Tensor]] = {}
        self.stopped = np.zeros(stack.n_models, bool)
        self.best = np.full(stack.n_models, -np.inf)
        self.sums: list[torch.Tensor] = []
        self.n_averaged = 0

    def after_step(self, step: int) -> None:
        """Add the weights to their average, over the last share of the steps."""
        if not self.spec.average_last or step < self.first_averaged:
            return
        weights = [p.detach() for p in self.stack.parameters()]
        if not self.sums:
            self.sums = [torch.zeros_like(w) for w in weights]
        torch._foreach_add_(self.sums, weights)
        self.n_averaged += 1

    def after_epoch(self, losses: np.ndarray, accuracy: np.ndarray | None) -> bool:
        """Keep the weights of models that are at their best, or done; True when all are done.

        Parameters
        ----------
        losses
            (G,) mean training loss of the epoch.
        accuracy
            (G,) on each model's own validation images, or None.

        """
        for g in np.flatnonzero(~self.stopped):
            done = losses[g] < self.spec.stop_at_loss
            better = accuracy is not None and accuracy[g] > self.best[g]
            if better or (done and accuracy is None):
                self.kept[g] = self.stack.model_state(g)
            if better:
                self.best[g] = accuracy[g]
            self.stopped[g] = done
        return bool(self.stopped.all())

    def finish(self, batches) -> None:
        """Put the final weights in place; ``batches`` of images renew averaged statistics."""
        if self.n_averaged:
            with torch.no_grad():
                for weight, total in zip(self.stack.parameters(), self.sums, strict=True):
                    weight.copy_(total / self.n_averaged)
            if any(isinstance(m, torch.nn.BatchNorm2d) for m in self.stack.modules()):
                update_bn((images for images, _ in batches), self.stack)
        for g, state in self.kept.items():
            self.stack.load_model(g, state)
