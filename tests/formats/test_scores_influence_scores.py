import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from mdhelpers.formats.scores import load_scores, read_kronfluence, read_trak

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
