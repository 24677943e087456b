import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from pydantic_core import PydanticUndefined
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from mdhelpers.data.scenes import make_scenes
from mdhelpers.data.transforms import transform_images
from mdhelpers.method.margins import is_right
from mdhelpers.runs.run import Run
from mdhelpers.stages.captions import caption_directions
from mdhelpers.stages.comparison import compare_algorithms
from mdhelpers.stages.data import prepare_data
from mdhelpers.stages.datamodels import fit_datamodels
from mdhelpers.stages.effect_models import train_on_all
from mdhelpers.stages.effects import verify_hypotheses
from mdhelpers.stages.models import train_models
from mdhelpers.stages.study import Study
from mdhelpers.stages.subpopulations import inspect_subpopulations
from mdhelpers.training import algorithms
from mdhelpers.training.algorithms import parse_algorithm
from mdhelpers.training.augmentation import normalise
from mdhelpers.training.learners import (
    TrainedNetworks,
    learn,
    margins_of,
)
from mdhelpers.training.recipe import Task, TrainingData, stack_logits, train_stack
from mdhelpers.training.tasks import load_kept

PAGE = (Path(__file__).parents[2] / "book" / "your_own_algorithm.md").read_text()
KINDS = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text()
FOREST = {"kind": "sklearn", "name": "f", "classifier": "RandomForestClassifier"}
FOREST |= {"options": {"n_estimators": 20, "max_features": 0.1}}
OWN = {"kind": "python", "name": "p", "function": "my_algorithms:random_features"}
OWN_NETWORK = {"kind": "python", "name": "o", "function": "my_networks:small_network"}
OWN_NETWORK |= {"returns": "network", "options": {"epochs": 2, "width": 4}}
NETWORK = {"name": "n", "epochs": 2, "batch_size": 10, "width": 4}


def users_function(**changes) -> dict:
    return {"kind": "python", "name": "p", "function": "users_own:train"} | changes


def scenes(n_train: int = 60) -> tuple[TrainingData, np.ndarray, torch.Tensor]:
    made = make_scenes(n_train=n_train, n_test=45, size=16, seed=0)
    train = TrainingData(torch.tensor(made.train.images), torch.tensor(made.train.labels), 3)
    return train, made.test.images, torch.tensor(made.test.labels)


def task(given: dict, n_train: int = 60, n_models: int = 2) -> Task:
    rng = np.random.default_rng(0)
    masks = np.zeros((n_models, n_train), bool)
    for mask in masks:
        mask[rng.permutation(n_train)[: n_train // 2]] = True
    spec = parse_algorithm(given)
    return Task(spec, masks, [11 + g for g in range(n_models)], [77] * n_models)


def flat(images) -> np.ndarray:
    """Pixels as networks see them."""
    return normalise(torch.as_tensor(images)).flatten(1).numpy()


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Writes a module of the user's beside the working directory; gives its name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    names = []

    def write(source: str, name: str = "users_own") -> str:
        monkeypatch.delitem(sys.modules, name, raising=False)
        monkeypatch.setattr(sys, "dont_write_bytecode", True)
        (tmp_path / f"{name}.py").write_text(source)
        names.append(name)
        return name

    yield write
    for name in names:
        sys.modules.pop(name, None)


def test_a_network_is_what_train_stack_gives():
    data, images, _ = scenes()
    models = learn(task(NETWORK), data)
    stack, losses = train_stack(task(NETWORK), data)
    assert isinstance(models, TrainedNetworks)
    np.testing.assert_array_equal(models.losses, losses.T)
    assert models.losses.shape == (2, 2)
    torch.testing.assert_close(models.logits(images), stack_logits(stack, torch.tensor(images)))


def test_networks_from_a_checkpoint_take_images_that_cannot_be_written():
    data, images, _ = scenes()
    images = images.copy()
    images.flags.writeable = False
    read = TrainedNetworks(learn(task(NETWORK), data).stack)
    assert read.losses.shape == (2, 0)
    assert read.logits(images).shape == (2, 45, 3)


def test_a_forest_is_the_one_that_scikit_learn_trains():
    data, images, labels = scenes()
    given = task(FOREST)
    models = learn(given, data)
    for g, (mask, seed) in enumerate(zip(given.masks, given.data_seeds, strict=True)):
        twin = RandomForestClassifier(20, max_features=0.1, random_state=seed)
        own = flat(data.source.images)[mask], data.labels.numpy()[mask]
        twin.fit(*own)
        wanted = np.maximum(twin.predict_proba(flat(images)), 1 / (2 * 20 * 3))
        wanted /= wanted.sum(axis=1, keepdims=True)
        np.testing.assert_allclose(models.logits(images)[g].softmax(-1), wanted, atol=1e-6)
        clipped = np.maximum(twin.predict_proba(own[0]), 1 / (2 * 20 * 3))
        loss = log_loss(own[1], clipped / clipped.sum(axis=1, keepdims=True))
        assert models.losses[g, 0] == pytest.approx(loss, abs=1e-6)
    assert is_right(models.logits(images), labels).float().mean() > 0.45


def test_probabilities_that_are_no_votes_are_hardly_clipped():
    data, images, _ = scenes()
    given = task(FOREST | {"classifier": "LogisticRegression", "options": {"C": 0.01}})
    twin = LogisticRegression(C=0.01)
    twin.fit(flat(data.source.images)[given.masks[0]], data.labels.numpy()[given.masks[0]])
    found = learn(given, data).logits(images)[0]
    np.testing.assert_allclose(found.softmax(-1), twin.predict_proba(flat(images)), atol=1e-4)


def test_a_class_that_a_subset_lacks_has_no_probability():
    data, images, _ = scenes()
    given = task(FOREST)
    given.masks[:] = (data.labels != 1).numpy()
    models = learn(given, data)
    probabilities = models.logits(images).softmax(-1)
    torch.testing.assert_close(
        probabilities[..., 1], torch.full((2, 45), 1 / 120), atol=2e-4, rtol=0
    )
    assert np.isfinite(models.losses).all()


def test_large_images_are_predicted_in_parts(monkeypatch):
    data, images, _ = scenes()
    models = learn(task(FOREST), data)
    whole = models.logits(images)
    monkeypatch.setattr("mdhelpers.training.learners.PREDICTION_VALUES", 10 * images[0].size)
    torch.testing.assert_close(models.logits(images), whole)


RECORDED = """
import numpy as np
CALLS = []
def train(images, labels, test_images, *, n_classes, seed, scale=1.0):
    CALLS.append((images, labels, test_images, n_classes, seed))
    means = np.array([images.mean() if c == 9 else c for c in range(n_classes)])
    images[:] = test_images[:] = 0  # what is given is a copy
    return scale * np.tile(means, (len(test_images), 1)) + seed
"""


def test_a_function_is_called_once_a_model_with_its_subset(module):
    name = module(RECORDED)
    data, images, _ = scenes()
    before = data.source.images.clone(), images.copy()
    given = task(users_function(options={"scale": 2.0}))
    models = learn(given, data)
    calls = sys.modules[name].CALLS
    assert calls == []
    logits = models.logits(images)
    assert models.losses.shape == (2, 1)
    assert len(calls) == 2
    assert models.retrains  # so that stage 07 gives it all images in one call
    for g, (own, labels, tests, n_classes, seed) in enumerate(calls):
        assert own.shape == (30, 16, 16, 3)
        assert own.dtype == tests.dtype == np.uint8
        np.testing.assert_array_equal(labels, data.labels[given.masks[g]])
        assert labels.dtype == np.int64
        assert (n_classes, seed, len(tests)) == (3, given.data_seeds[g], 45 + 30)
        wanted = log_loss(labels, np.tile(np.exp([0, 2, 4]) / np.exp([0, 2, 4]).sum(), (30, 1)))
        assert models.losses[g, 0] == pytest.approx(wanted, rel=1e-5)
        torch.testing.assert_close(logits[g, 7], torch.tensor([0.0, 2.0, 4.0]) + seed)
    torch.testing.assert_close(data.source.images, before[0])
    np.testing.assert_array_equal(images, before[1])


def test_losses_alone_train_on_the_subset_alone(module):
    name = module(RECORDED)
    models = learn(task(users_function()), scenes()[0])
    assert np.isfinite(models.losses).all()
    assert [len(call[2]) for call in sys.modules[name].CALLS] == [30, 30]


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ("np.zeros((3, 3))", r"logits \(75, 3\) of a float dtype, got \(3, 3\) torch.float64"),
        ("np.zeros((75, 3), int)", "float dtype, got .* torch.int64"),
        ("None", "got NoneType"),
        ("np.full((75, 3), -np.inf)", "225 of 225 logits are not finite .the first in row 0"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
    ],
)  # fmt: skip
def test_what_a_function_may_not_return_is_told_with_its_name(module, returned, message):
    name = module(
        "import numpy as np\ndef train(images, labels, test_images, *, n_classes, seed):\n"
        f"    return {returned}\n"
    )
    models = learn(task(users_function()), scenes()[0])
    where = f"{name}:train failed for model 0 of 2 of its task .seed 11.: .*{message}"
    with pytest.raises(RuntimeError, match=where):
        models.logits(scenes()[1])


def test_a_function_may_return_a_tensor(module):
    module(
        "import torch\ndef train(images, labels, test_images, *, n_classes, seed):\n"
        "    return torch.ones(len(test_images), n_classes, requires_grad=True).double()\n"
    )
    data, images, _ = scenes()
    found = learn(task(users_function()), data)
    torch.testing.assert_close(found.logits(images), torch.ones(2, 45, 3))


NETWORK_OF_ONES_OWN = """
import torch

def train(images, labels, test_images, *, n_classes, seed, broken=False):
    assert len(test_images) == 0
    torch.manual_seed(seed)
    net = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Dropout(), torch.nn.Linear(16 * 16 * 3, n_classes)
    )
    return None if broken else net
"""


def test_a_function_may_return_a_network(module):
    """Asked in evaluation mode, of images as networks see them."""
    module(NETWORK_OF_ONES_OWN)
    data, images, _ = scenes()
    trained = learn(task(users_function(returns="network")), data)
    net = trained.models[1].eval()
    ready = normalise(torch.tensor(images)).permute(0, 3, 1, 2)
    torch.testing.assert_close(trained.logits(images)[1], net(ready).detach())
    assert trained.losses.shape == (2, 1)
    with pytest.raises(RuntimeError, match=r"returns: network asks for .*got NoneType"):
        learn(task(users_function(returns="network", options={"broken": True})), data)


def test_a_network_that_was_not_announced_is_refused(module):
    module("import torch\ndef train(*_, n_classes, seed): return torch.nn.Linear(2, 2)")
    data, images, _ = scenes()
    with pytest.raises(RuntimeError, match="give returns: network"):
        learn(task(users_function()), data).logits(images)


def test_a_function_as_it_was_is_the_same_algorithm():
    given = {"name": "p", "kind": "python", "function": "users_own:train", "options": {}}
    assert parse_algorithm(given).model_dump() == given
    assert parse_algorithm(given | {"returns": "network"}).has_gradients


def test_the_same_task_gives_the_same_bits(module):
    module(page_blocks("python")[0], "my_algorithms")
    data, images, _ = scenes()
    for given in (FOREST, OWN, NETWORK):
        once, again = (learn(task(given), data).logits(images) for _ in range(2))
        assert torch.equal(once, again)
        assert not torch.equal(once[0], once[1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classifier": "RandomForrestClassifier"}, "did you mean 'RandomForestClassifier'"),
        ({"classifier": "RandomForestRegressor"}, "unknown classifier 'RandomForestRegressor'"),
        ({"options": {"n_estimator": 3}}, "unknown option of RandomForest.*'n_estimators'"),
        ({"options": {"n_estimators": "many"}}, "n_estimators.*must be an int.*Got 'many'"),
        ({"options": {"random_state": 1}}, "random_state is not yours to choose"),
        ({"options": {"n_jobs": -1}}, "n_jobs is not yours to choose"),
        ({"classifier": "LinearSVC", "options": {}}, "LinearSVC .* has no predict_proba"),
        ({"classifier": "SGDClassifier", "options": {}}, "has no predict_proba"),
        ({"classifier": "VotingClassifier", "options": {}}, "needs estimators.*kind: python"),
    ],
)
def test_a_classifier_that_cannot_be_is_refused_before_training(changes, message):
    with pytest.raises(ValueError, match=f"f: .*{message}"):
        parse_algorithm(FOREST | changes).check()


def test_options_decide_whether_there_are_probabilities():
    options = {"classifier": "SGDClassifier", "options": {"loss": "log_loss"}}
    parse_algorithm(FOREST | options).check()


@pytest.mark.parametrize(
    ("function", "options", "message"),
    [
        ("users_won:train", {}, "cannot import 'users_won'.*ModuleNotFoundError"),
        ("users_own:trian", {}, "unknown function of users_own 'trian'; did you mean 'train'"),
        ("users_own:train", {"scael": 1}, "does not take.*unexpected keyword argument 'scael'"),
        ("users_own:train", {"seed": 1}, "does not take.*'seed'"),
        ("users_own:short", {}, "short.* does not take.*too many positional arguments"),
        ("users_own:limit", {}, "unknown function of users_own 'limit'"),
    ],
)
def test_a_function_that_cannot_be_is_refused_before_training(module, function, options, message):
    module(RECORDED + "\nlimit = 3\ndef short(images): return images\n")
    given = users_function(function=function, options=options)
    with pytest.raises(ValueError, match=f"p: .*{message}"):
        parse_algorithm(given).check()


def test_a_fault_inside_a_module_is_told(module):
    module("import no_such_package_at_all\n")
    with pytest.raises(ValueError, match=r"cannot import 'users_own'.*no_such_package_at_all"):
        parse_algorithm(users_function()).check()


def test_a_checkpoint_must_be_there(tmp_path):
    path = tmp_path / "start.safetensors"
    given = NETWORK | {"initialisation": {"kind": "checkpoint", "path": str(path)}}
    with pytest.raises(FileNotFoundError, match="n starts from a checkpoint that is not there"):
        parse_algorithm(given).check()
    path.write_bytes(b"weights")
    parse_algorithm(given).check()


def test_an_edited_function_is_another_algorithm(module):
    given = parse_algorithm(users_function())
    module(RECORDED)
    before = given.made_with()
    assert given.made_with() == before
    module(RECORDED + "# edited\n")
    assert given.made_with() != before
    assert parse_algorithm(FOREST).made_with().startswith("scikit-learn ")
    assert parse_algorithm(NETWORK).made_with() == ""


BUDGET = {"n_models": 24, "n_heldout": 8, "n_kept": 3, "n_slots": 0, "alpha": 0.5}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kinds", "method"),
    [
        ((NETWORK, FOREST), "difference_of_means"),
        ((FOREST, OWN), "difference_of_means"),
        ((NETWORK, OWN_NETWORK), "auto"),
    ],
    ids=["forest", "function", "own network"],
)
def test_any_two_kinds_go_through_the_stages(kinds, method, module, tmp_path):
    module(page_blocks("python")[0], "my_algorithms")
    module(page_blocks("python")[1], "my_networks")
    run = Run("pair", runs_dir=tmp_path)
    data = {"kind": "scenes", "size": 16, "n_train": 30, "n_test": 24}
    dataset = prepare_data(run, data)
    parameters = BUDGET | {"algorithm_1": kinds[0], "algorithm_2": kinds[1], "seed": 0}
    models = train_models(run, **parameters, workers=1, device="cpu")
    given = {"gradients": {"models": 8, "views": 1}, "workers": 1}
    fits = fit_datamodels(run, method=method, device="cpu", **given)
    assert fits.datamodels[0].method == ("trak+ridge" if method == "auto" else method)
    assert [d.weights.shape for d in fits.datamodels] == [(24, 30)] * 2
    compare_algorithms(run, n_directions=2, n_splits=1, n_null_splits=1)
    inspect_subpopulations(run, top_k=8)
    caption_directions(run, {"model": "none"})
    on_all = train_on_all(run, n_effect_models=2, workers=1, device="cpu")
    tested = [{"transformation": "tag", "intensities": [4], "target_class": "boat", "uses": 0}]
    found = verify_hypotheses(run, tested, seed=0, device="cpu")
    images, labels = dataset.test.images, torch.tensor(dataset.test.labels)
    both = np.concatenate([images, transform_images("tag", images, 4, seed=0)])
    effects = found.effects.query("kind == 'feature' and class_name == 'boat'")
    effects = effects.set_index("algorithm")["effect"]
    for algorithm in (1, 2):
        boat = on_all.logits(algorithm, both).softmax(-1)[..., dataset.class_names.index("boat")]
        before, after = boat.chunk(2, dim=1)
        assert effects[algorithm] == pytest.approx(100 * float((after - before).mean()), abs=0.01)
        trained = models.all(algorithm).rows(slice(0, 3))
        kept = load_kept(models.plan, algorithm, 3)
        logits = torch.cat([stack.logits(dataset.test.images) for stack in kept])[:3]
        again = margins_of(models.plan.algorithms[algorithm - 1], logits, labels)
        np.testing.assert_allclose(again, trained.margins, atol=1e-4)
        np.testing.assert_allclose(is_right(logits, labels).float().mean(1), trained.accuracy)


# The page about algorithms


def page_blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.S)


@pytest.mark.parametrize("block", page_blocks("yaml"))
def test_every_yaml_of_the_page_is_a_study(block, module):
    for name, code in re.findall(r"```python\n# (\w+)\.py\n(.*?)```", KINDS, re.S):
        module(code, name)
    given = yaml.safe_load(block)
    study = Study(study="page", **given)
    names = (study.algorithm_1.name, study.algorithm_2.name)
    said = given.get("algorithms") or [given["algorithm_1"], given["algorithm_2"]]
    assert names == tuple(each["name"] for each in said[:2])


SECTIONS = {
    "Its keys": (algorithms.NetworkSpec, {"name": "a"}),
    "Keys of augmentation": (algorithms.AugmentationSpec, {}),
    "Keys of initialisation": (algorithms.InitialisationSpec, {}),
    "Keys of source": (algorithms.PretrainingSpec, {"dataset": {}, "algorithm": {"name": "a"}}),
    "Keys of a classifier": (
        algorithms.SklearnSpec,
        {"name": "a", "kind": "sklearn", "classifier": "C"},
    ),
    "Keys of a function": (
        algorithms.PythonSpec,
        {"name": "a", "kind": "python", "function": "m:f"},
    ),
}


@pytest.mark.parametrize("title", SECTIONS)
def test_the_page_names_every_key_and_its_default(title):
    spec, least = SECTIONS[title]
    section = re.search(rf"^### {title}\n(.*?)(?=^##)", PAGE, re.S | re.M)[1]
    rows = re.findall(r"^\| `(\w+)` \|.*\| (?:`(.*)`|required) \|$", section, re.M)
    assert [name for name, _ in rows] == list(spec.model_fields)
    smallest = spec.model_validate(least)
    for name, default in rows:
        if default:
            assert spec.model_validate(least | {name: yaml.safe_load(default)}) == smallest, name
        else:
            assert spec.model_fields[name].default is PydanticUndefined, name


@pytest.mark.parametrize("number", [0, 1])
def test_the_pages_function_learns(module, number):
    module(page_blocks("python")[number], ("my_algorithms", "my_networks")[number])
    block = [b for b in page_blocks("yaml") if "kind: python" in b][number]
    data, images, labels = scenes(240)
    given = task(yaml.safe_load(block)["algorithm_2"], 240)
    assert is_right(learn(given, data).logits(images), labels).float().mean() > 0.5
