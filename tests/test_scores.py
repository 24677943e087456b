import numpy as np
import pytest
import torch

from mdhelpers.comparison import compare
from mdhelpers.datamodels import fit_datamodels, save_datamodels
from mdhelpers.scores import load_scores

WEIGHT = torch.arange(12, dtype=torch.float32).reshape(4, 3)  # 4 training, 3 test examples


def saved(tmp_path, content, name="scores.pt"):
    path = tmp_path / name
    torch.save(content, path)
    return path


def test_reads_and_transposes_what_modeldiff_writes(tmp_path):
    lam, bias = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([[1.0, 2.0, 3.0]])
    path = saved(tmp_path, {"weight": WEIGHT, "bias": bias, "lam": lam})
    scores = load_scores(path)
    np.testing.assert_array_equal(scores.weights, WEIGHT.numpy().T)
    assert scores.weights.flags.c_contiguous
    assert scores.bias.tolist() == [1, 2, 3]
    np.testing.assert_array_equal(scores.lam, lam.numpy())
    assert "transposed" in scores.notes[0]
    assert scores.method == "imported"


def test_a_weight_alone_is_enough(tmp_path):
    scores = load_scores(saved(tmp_path, {"weight": WEIGHT.half()}), n_train=4, n_test=3)
    assert scores.weights.dtype == np.float32
    assert not scores.bias.any()
    assert np.isnan(scores.lam).all()
    assert scores.predict(np.ones((2, 4), bool)).tolist() == [[18, 22, 26]] * 2


@pytest.mark.parametrize("sizes", [{"n_train": 3, "n_test": 4}, {"n_train": 3}, {"n_test": 4}])
def test_sizes_tell_that_rows_are_test_examples(tmp_path, sizes):
    scores = load_scores(saved(tmp_path, {"weight": WEIGHT}), **sizes)
    np.testing.assert_array_equal(scores.weights, WEIGHT.numpy())
    assert "already" in scores.notes[0]


def test_square_needs_both_sizes(tmp_path):
    path = saved(tmp_path, {"weight": WEIGHT[:3]})
    for sizes in ({}, {"n_train": 3}, {"n_test": 3}):
        with pytest.raises(ValueError, match="square"):
            load_scores(path, **sizes)
    scores = load_scores(path, n_train=3, n_test=3)
    np.testing.assert_array_equal(scores.weights, WEIGHT[:3].numpy().T)


def test_reads_our_own_files(tmp_path):
    rng = np.random.default_rng(0)
    masks, margins = rng.random((40, 6)) < 0.5, rng.normal(size=(40, 5))
    datamodels = fit_datamodels(masks, margins, method="difference_of_means")
    save_datamodels(datamodels, tmp_path / "d.safetensors")
    loaded = load_scores(tmp_path / "d.safetensors", n_train=6, n_test=5)
    np.testing.assert_array_equal(loaded.weights, datamodels.weights)
    with pytest.raises(ValueError, match=r"shape \(5, 6\); expected"):
        load_scores(tmp_path / "d.safetensors", n_train=5)


def test_two_files_give_the_directions_of_an_independent_implementation(tmp_path):
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(30, 80, generator=generator) for _ in range(2)]
    weights[0][:6, :20] += 2
    weights[1][10:14, 40:55] += 2
    paths = [saved(tmp_path, {"weight": w}, f"{i}.pt") for i, w in enumerate(weights)]
    found = compare(*(load_scores(path) for path in paths), n_directions=3)
    first, second = ((w / w.norm(dim=0)).T.double().numpy() for w in weights)
    residuals = first - (first * second).sum(1, keepdims=True) * second
    directions = np.linalg.svd(residuals - residuals.mean(0))[2][:3]
    assert np.abs((found["1_minus_2"].directions * directions).sum(1)).min() > 0.999


class Unwelcome:
    """An object whose pickle would call a function when it is opened."""

    def __reduce__(self):
        return print, ("code ran",)


@pytest.mark.parametrize(
    ("content", "sizes", "message"),
    [
        ({"weights": WEIGHT}, {}, r"holds \['weights'\]; expected a dictionary with the key"),
        (WEIGHT, {}, "holds Tensor"),
        ({"weight": [1, 2]}, {}, "'weight' in .* is a list"),
        ({"weight": WEIGHT[0]}, {}, "expected two dimensions"),
        ({"weight": WEIGHT}, {"n_train": 5}, "not of n_train=5"),
        ({"weight": WEIGHT}, {"n_train": 4, "n_test": 4}, "not of n_train=4, n_test=4"),
        ({"weight": WEIGHT, "bias": torch.zeros(4)}, {}, "'bias' in .* has 4 values"),
        ({"weight": WEIGHT / 0}, {}, "training example 0 on test example 0"),
        ({"weight": WEIGHT, "x": Unwelcome()}, {}, "was refused"),
    ],
)
def test_refuses(tmp_path, capsys, content, sizes, message):
    with pytest.raises(ValueError, match=message):
        load_scores(saved(tmp_path, content), **sizes)
    assert "code ran" not in capsys.readouterr().out


def test_refuses_files_of_other_kinds(tmp_path):
    with pytest.raises(ValueError, match="is not a file"):
        load_scores(tmp_path / "nothing.pt")
    (tmp_path / "scores.csv").write_text("1,2")
    with pytest.raises(ValueError, match=r"ends in '\.csv'"):
        load_scores(tmp_path / "scores.csv")
    (tmp_path / "torn.pt").write_bytes(b"PK\x03\x04 torn")
    with pytest.raises(ValueError, match="was refused"):
        load_scores(tmp_path / "torn.pt")
