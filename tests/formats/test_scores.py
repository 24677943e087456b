import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from sklearn.linear_model import LinearRegression

from mdhelpers.formats.own import save_datamodels
from mdhelpers.formats.score_checks import check_against_models
from mdhelpers.formats.scores import load_scores, read_kronfluence, read_npy, read_pt, read_trak
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


N_TRAIN, N_TEST = 7, 4


SCORES = np.random.default_rng(0).normal(size=(N_TRAIN, N_TEST)).astype(np.float16)


def trak_folder(tmp_path, scores=SCORES, finalized=1, **experiment):
    """A save_dir as TRAKer leaves it: a memmap, and two records beside it."""
    folder = tmp_path / "trak_results"
    (folder / "scores").mkdir(parents=True)
    mmap = np.lib.format.open_memmap(
        folder / "scores" / "quick.mmap", mode="w+", dtype=scores.dtype, shape=scores.shape
    )
    mmap[:] = scores
    mmap.flush()
    noted = {"num_targets": N_TEST, "scores_path": "/elsewhere/scores/quick.mmap"}
    noted |= {"scores_finalized": finalized} | experiment
    (folder / "experiments.json").write_text(json.dumps({"quick": noted}))
    metadata = {"JL dimension": 2048, "JL matrix type": "rademacher", "train set size": N_TRAIN}
    (folder / "metadata.json").write_text(json.dumps(metadata))
    return folder


def test_reads_a_folder_of_trak(tmp_path):
    folder = trak_folder(tmp_path)
    scores = read_trak(folder)
    np.testing.assert_array_equal(scores.weights, SCORES.T.astype(np.float32))
    assert scores.weights.flags.c_contiguous
    said = " | ".join(scores.notes)
    for word in ("transposed", "no bias", "as TRAK writes it", "logsumexp of the others"):
        assert word in said
    same = load_scores(folder / "scores" / "quick.mmap", n_train=N_TRAIN, n_test=N_TEST)
    np.testing.assert_array_equal(same.weights, scores.weights)


@pytest.mark.parametrize(
    ("finalized", "said", "message"),
    [(0, {}, "not finalized"), (0, {"finalized": True}, None), (True, {}, None)],
)
def test_scores_must_be_finalized(tmp_path, finalized, said, message):
    folder = trak_folder(tmp_path, finalized=finalized)
    if message is None:
        assert read_trak(folder, **said).weights.any()
    else:
        with pytest.raises(ValueError, match=message):
            read_trak(folder, **said)


def test_targets_without_scores_are_refused(tmp_path):
    scores = SCORES.copy()
    scores[:, 2] = 0
    with pytest.raises(ValueError, match="0 for 1 of 4 targets, the first being 2"):
        read_trak(trak_folder(tmp_path, scores))


def test_an_overflow_of_half_precision_is_refused(tmp_path):
    scores = SCORES.copy()
    scores[5, 1] = np.inf
    with pytest.raises(ValueError, match="inf for training example 5 on test example 1"):
        read_trak(trak_folder(tmp_path, scores))


def test_what_trak_noted_must_agree(tmp_path):
    with pytest.raises(ValueError, match=r"noted .* = \(7, 4\)"):
        read_trak(trak_folder(tmp_path, SCORES.T))


def test_a_memmap_without_records_goes_by_the_sizes(tmp_path):
    np.save(tmp_path / "a.npy", SCORES)
    path = (tmp_path / "a.npy").rename(tmp_path / "a.mmap")
    assert "no experiments.json" in read_trak(path, n_train=N_TRAIN).notes[1]
    with pytest.raises(ValueError, match="swapped"):
        read_trak(path, n_train=N_TEST)
    np.testing.assert_array_equal(
        read_trak(path, n_train=N_TEST, orientation="test_train").weights, SCORES
    )


def test_square_scores_need_a_word(tmp_path):
    folder = trak_folder(tmp_path, SCORES[:4])
    (folder / "metadata.json").unlink()
    with pytest.raises(ValueError, match="square"):
        read_trak(folder, n_train=4, n_test=4)
    assert read_trak(folder, orientation="train_test").weights[0, 1] == SCORES[1, 0]


def test_refuses_folders_it_cannot_understand(tmp_path):
    with pytest.raises(ValueError, match=r"holds \[\] in scores/"):
        load_scores(tmp_path)
    folder = trak_folder(tmp_path)
    (folder / "experiments.json").write_text("{")
    with pytest.raises(ValueError, match="is not JSON"):
        read_trak(folder)
    (folder / "experiments.json").write_text("[]")
    with pytest.raises(ValueError, match="holds list"):
        read_trak(folder)


def kronfluence_folder(tmp_path, tensors, name="pairwise_scores", **arguments):
    """A scores_… folder as kronfluence leaves it: safetensors, and records of both data sets."""
    arguments = {"damping_factor": "1e-08"} | arguments
    save_file(tensors, tmp_path / f"{name}.safetensors", metadata=arguments)
    for data, size, indices in (("query", 100, list(range(N_TEST))), ("train", N_TRAIN, None)):
        record = {"type": "TensorDataset", "dataset_size": size, "indices": indices}
        (tmp_path / f"{data}_dataset_metadata.json").write_text(json.dumps(record))
    return tmp_path / f"{name}.safetensors"


PAIRWISE = torch.from_numpy(SCORES.astype(np.float32).T).contiguous()


def test_reads_pairwise_scores_by_the_users_word(tmp_path):
    path = kronfluence_folder(tmp_path, {"all_modules": PAIRWISE})
    helps = read_kronfluence(path, positive_means="helps", n_train=N_TRAIN, n_test=N_TEST)
    np.testing.assert_array_equal(helps.weights, PAIRWISE)
    assert "already (n_test, n_train) = (4, 7)" in helps.notes[0]
    hurts = load_scores(path, positive_means="hurts")
    np.testing.assert_array_equal(hurts.weights, -PAIRWISE.numpy())
    assert "reversed here" in hurts.notes[2]
    for said in ({}, {"positive_means": "+"}):
        with pytest.raises(ValueError, match="nobody can tell the sign"):
            load_scores(path, **said)


def test_scores_by_module_are_summed(tmp_path):
    modules = {"conv": PAIRWISE.bfloat16(), "linear": 2 * PAIRWISE.bfloat16()}
    path = kronfluence_folder(tmp_path, modules, compute_per_module_scores="True")
    expected = sum(module.float() for module in modules.values())
    np.testing.assert_array_equal(read_kronfluence(path, positive_means="helps").weights, expected)


def test_reads_the_same_from_a_pt(tmp_path):
    torch.save({"all_modules": PAIRWISE}, tmp_path / "scores.pt")
    scores = load_scores(tmp_path / "scores.pt", positive_means="helps", n_test=N_TEST)
    np.testing.assert_array_equal(scores.weights, PAIRWISE)


def test_swapped_scores_are_caught_by_sizes_and_records(tmp_path):
    path = kronfluence_folder(tmp_path, {"all_modules": PAIRWISE.T.contiguous()})
    with pytest.raises(ValueError, match=r"swapped\. If the file was turned"):
        read_kronfluence(path, positive_means="helps", n_train=N_TRAIN)
    with pytest.raises(ValueError, match="7 query examples, but kronfluence noted 4"):
        read_kronfluence(path, positive_means="helps")
    turned = read_kronfluence(path, positive_means="helps", orientation="train_test")
    np.testing.assert_array_equal(turned.weights, PAIRWISE)


@pytest.mark.parametrize(
    ("tensors", "name", "arguments", "message"),
    [
        ({"all_modules": PAIRWISE}, "self_scores", {}, "self-influence"),
        (
            {"all_modules": PAIRWISE},
            "pairwise_scores_data_partition0_module_partition0",
            {},
            "one partition",
        ),
        (
            {"all_modules": PAIRWISE[:, :1].contiguous()},
            "pairwise_scores",
            {"aggregate_train_gradients": "True"},
            "sums examples",
        ),
        ({"all_modules": PAIRWISE[..., None]}, "pairwise_scores", {}, "expected two dimensions"),
        ({"a": PAIRWISE, "b": PAIRWISE[:1].clone()}, "pairwise_scores", {}, "scores of one shape"),
    ],
)
def test_refuses_other_files_of_kronfluence(tmp_path, tensors, name, arguments, message):
    path = kronfluence_folder(tmp_path, tensors, name, **arguments)
    with pytest.raises(ValueError, match=message):
        read_kronfluence(path, positive_means="helps")
