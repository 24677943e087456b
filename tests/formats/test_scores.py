import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from sklearn.linear_model import LinearRegression

from mdhelpers.formats.own import save_datamodels
from mdhelpers.formats.score_checks import check_against_models
from mdhelpers.formats.scores import load_scores, read_npy, read_pt
from mdhelpers.method.comparison import compare
from mdhelpers.method.datamodels import fit_datamodels

WEIGHT = torch.arange(12, dtype=torch.float32).reshape(4, 3)  # 4 training, 3 test examples
LAM, BIAS = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([[1.0, 2.0, 3.0]])


def saved(tmp_path, content, name="scores.pt"):
    path = tmp_path / name
    torch.save(content, path)
    return path


def test_reads_and_transposes_what_modeldiff_writes(tmp_path):
    path = saved(tmp_path, {"weight": WEIGHT, "bias": BIAS, "lam": LAM})
    scores = read_pt(path, standardised=False)
    np.testing.assert_array_equal(scores.weights, WEIGHT.numpy().T)
    assert scores.weights.flags.c_contiguous
    assert scores.bias.tolist() == [1, 2, 3]
    np.testing.assert_array_equal(scores.lam, LAM.numpy())
    assert scores.method == "imported"
    said = " | ".join(scores.notes)
    for word in ("transposed", "units: raw", "sign: a positive", "output: correct-class margin"):
        assert word in said


def test_results_are_no_views_of_the_file(tmp_path):
    path = saved(tmp_path, {"weight": WEIGHT, "bias": BIAS, "lam": LAM})
    scores = read_pt(path, standardised=False)
    path.write_bytes(bytes(path.stat().st_size))
    assert scores.weights.max() == 11
    assert scores.lam.max() == LAM.max()


def test_reads_files_older_than_torch_1_6(tmp_path):
    torch.save({"weight": WEIGHT}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    scores = read_pt(tmp_path / "old.pt", standardised=False)
    np.testing.assert_array_equal(scores.weights, WEIGHT.numpy().T)


def test_a_weight_alone_is_enough(tmp_path):
    path = saved(tmp_path, {"weight": WEIGHT.half()})
    scores = read_pt(path, standardised=False, n_train=4, n_test=3)
    assert scores.weights.dtype == np.float32
    assert not scores.bias.any()
    assert np.isnan(scores.lam).all()
    assert scores.predict(np.ones((2, 4), bool)).tolist() == [[18, 22, 26]] * 2


@pytest.mark.parametrize("alpha", [0.5, 0.2])
def test_predicts_what_a_fit_on_standardised_masks_predicts(tmp_path, alpha):
    rng = np.random.default_rng(0)
    masks, margins = rng.random((50, 6)) < alpha, rng.normal(size=(50, 4))
    scaled = (masks - alpha) / np.sqrt(alpha * (1 - alpha))
    theirs = LinearRegression().fit(scaled, margins)
    content = {"weight": torch.tensor(theirs.coef_.T), "bias": torch.tensor(theirs.intercept_)}
    path = saved(tmp_path, content)
    scores = read_pt(path, standardised=True, alpha=alpha)
    np.testing.assert_allclose(scores.predict(masks), theirs.predict(scaled), atol=1e-5)
    assert f"division by {np.sqrt(alpha * (1 - alpha)):.3g}; bias corrected" in scores.notes[1]


def test_without_a_bias_there_is_none_to_correct(tmp_path):
    scores = read_pt(saved(tmp_path, {"weight": WEIGHT}), standardised=True, alpha=0.5)
    np.testing.assert_array_equal(scores.weights, 2 * WEIGHT.numpy().T)
    assert not scores.bias.any()


def test_units_are_the_users_word(tmp_path):
    path = saved(tmp_path, {"weight": WEIGHT, "bias": BIAS})
    with pytest.raises(ValueError, match=r"nobody can tell from .*scores\.pt"):
        read_pt(path)
    for said in ({"standardised": True}, {"standardised": False, "alpha": 0.5}):
        with pytest.raises(ValueError, match="expected alpha"):
            read_pt(path, **said)


def test_a_file_may_say_its_units_itself(tmp_path):
    noted = {"standardised": torch.tensor(True), "alpha": torch.tensor(0.5)}
    path = saved(tmp_path, {"weight": WEIGHT, "bias": BIAS} | noted)
    assert read_pt(path).weights.max() == 22
    assert read_pt(path, standardised=True, alpha=0.5).weights.max() == 22
    assert load_scores(path).weights.max() == 22
    with pytest.raises(ValueError, match=r"notes standardised=1\.0, but you say False"):
        read_pt(path, standardised=False)
    with pytest.raises(ValueError, match=r"notes alpha=0\.5, but you say 0\.2"):
        read_pt(path, alpha=0.2)


def test_weights_of_unknown_units_are_compared_but_predict_nothing(tmp_path):
    scores = load_scores(saved(tmp_path, {"weight": WEIGHT, "bias": BIAS}))
    np.testing.assert_array_equal(scores.weights, WEIGHT.numpy().T)
    assert "units unknown" in scores.notes[1]
    assert np.isnan(scores.predict(np.ones((1, 4), bool))).all()


@pytest.mark.parametrize("sizes", [{"n_train": 3, "n_test": 4}, {"n_train": 3}, {"n_test": 4}])
def test_swapped_rows_and_columns_are_caught_by_the_sizes(tmp_path, sizes):
    path = saved(tmp_path, {"weight": WEIGHT})
    with pytest.raises(ValueError, match="swapped"):
        load_scores(path, **sizes)
    scores = load_scores(path, orientation="test_train", **sizes)
    np.testing.assert_array_equal(scores.weights, WEIGHT.numpy())
    assert "already (n_test, n_train) = (4, 3)" in scores.notes[0]


def test_swapped_rows_and_columns_are_caught_by_the_bias(tmp_path):
    path = saved(tmp_path, {"weight": WEIGHT.T.contiguous(), "bias": BIAS})
    with pytest.raises(ValueError, match=r"'bias' in .* has 3 values; .* swapped"):
        read_pt(path, standardised=False)


def test_square_needs_the_users_word(tmp_path):
    path = saved(tmp_path, {"weight": WEIGHT[:3]})
    for sizes in ({}, {"n_train": 3}, {"n_train": 3, "n_test": 3}):
        with pytest.raises(ValueError, match="square"):
            load_scores(path, **sizes)
    turned = load_scores(path, orientation="train_test").weights
    np.testing.assert_array_equal(turned, WEIGHT[:3].numpy().T)
    kept = load_scores(path, orientation="test_train", n_train=3).weights
    np.testing.assert_array_equal(kept, WEIGHT[:3].numpy())


def test_reads_our_own_files(tmp_path):
    rng = np.random.default_rng(0)
    masks, margins = rng.random((40, 6)) < 0.5, rng.normal(size=(40, 5))
    datamodels = fit_datamodels(masks, margins, method="difference_of_means")
    save_datamodels(datamodels, tmp_path / "d.safetensors")
    loaded = load_scores(tmp_path / "d.safetensors", n_train=6, n_test=5)
    np.testing.assert_array_equal(loaded.weights, datamodels.weights)
    assert check_against_models(loaded, masks, margins).notes
    with pytest.raises(ValueError, match=r"shape \(5, 6\); expected"):
        load_scores(tmp_path / "d.safetensors", n_train=5)
    with pytest.raises(ValueError, match=r"\['alpha'\] cannot be said of .*d.safetensors"):
        load_scores(tmp_path / "d.safetensors", alpha=0.5)


def test_a_bare_matrix_needs_words_for_everything(tmp_path):
    path = tmp_path / "weights.npy"
    np.save(path, WEIGHT.numpy().T)
    how = {"standardised": False, "positive_means": "helps", "n_train": 4}
    np.testing.assert_array_equal(read_npy(path, **how).weights, WEIGHT.numpy().T)
    np.testing.assert_array_equal(
        read_npy(path, **how | {"positive_means": "hurts"}).weights, -WEIGHT.numpy().T
    )
    for missing, message in (
        ("standardised", "nobody can tell"),
        ("positive_means", "sign"),
        ("n_train", "says nothing of its rows"),
    ):
        with pytest.raises(ValueError, match=message):
            read_npy(path, **{key: value for key, value in how.items() if key != missing})
    compared = load_scores(path, orientation="test_train", positive_means="helps")
    assert np.isnan(compared.bias).all()


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
        ({"weight": WEIGHT + 1j}, {}, "expected a dense tensor"),
        ({"weight": WEIGHT}, {"n_train": 5}, "not of n_train=5"),
        ({"weight": WEIGHT}, {"n_train": 4, "n_test": 4}, "not of n_train=4, n_test=4"),
        ({"weight": WEIGHT, "bias": torch.zeros(4)}, {}, "'bias' in .* has 4 values"),
        ({"weight": WEIGHT / 0}, {}, "training example 0 on test example 0"),
        ({"weight": WEIGHT, "x": Unwelcome()}, {}, "was refused"),
        ({"weight": WEIGHT}, {"positive_means": "helps"}, "cannot be said of .*scores.pt"),
    ],
)
def test_refuses(tmp_path, capsys, content, sizes, message):
    with pytest.raises(ValueError, match=message):
        load_scores(saved(tmp_path, content), **sizes)
    assert "code ran" not in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
def test_refuses_sparse_tensors_whose_indices_nobody_checked(tmp_path):
    with pytest.raises(ValueError, match="expected a dense tensor"):
        read_pt(saved(tmp_path, {"weight": WEIGHT.to_sparse()}), standardised=False)


def test_refuses_files_of_other_kinds(tmp_path):
    with pytest.raises(ValueError, match="is not a file"):
        load_scores(tmp_path / "nothing.pt")
    (tmp_path / "scores.csv").write_text("1,2")
    with pytest.raises(ValueError, match=r"ends in '\.csv'"):
        load_scores(tmp_path / "scores.csv")
    (tmp_path / "torn.safetensors").write_bytes(b"torn")
    with pytest.raises(ValueError, match="no safetensors file"):
        load_scores(tmp_path / "torn.safetensors")
    save_file({"x": WEIGHT}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="sign"):
        load_scores(tmp_path / "other.safetensors", n_train=3)


@pytest.mark.parametrize("old", [False, True])
def test_refuses_damaged_files_whatever_the_damage(tmp_path, old):
    torch.save({"weight": WEIGHT}, tmp_path / "a.pt", _use_new_zipfile_serialization=not old)
    whole = (tmp_path / "a.pt").read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(60):
        damaged = bytearray(whole[: rng.integers(2, len(whole))])
        for place in rng.integers(len(damaged), size=8):
            damaged[place] = rng.integers(256)
        (tmp_path / "a.pt").write_bytes(damaged)
        with pytest.raises(ValueError, match=r"a\.pt"):
            read_pt(tmp_path / "a.pt", standardised=False)
        refused += 1
    assert refused == 60
