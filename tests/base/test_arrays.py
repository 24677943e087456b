import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors import safe_open

from mdhelpers.base.arrays import open_npy, row_blocks, write_npy, write_tensors


class Unwelcome:
    """An object whose pickle would call a function when it is opened."""

    def __reduce__(self):
        return print, ("code ran",)


def test_opens_on_disk_and_read_only(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(6.0).reshape(2, 3))
    array = open_npy(tmp_path / "a.npy", ("n_models", "n_train"))
    assert isinstance(array, np.memmap)
    assert array.tolist() == [[0, 1, 2], [3, 4, 5]]
    with pytest.raises(ValueError, match="read-only"):
        array[0, 0] = 1


def test_reads_what_fortran_and_big_endian_wrote(tmp_path):
    expected = np.arange(6).reshape(2, 3)
    np.save(tmp_path / "a.npy", np.asfortranarray(expected.astype(">f4")))
    np.testing.assert_array_equal(open_npy(tmp_path / "a.npy", ("a", "b")), expected)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.array([[Unwelcome()]], dtype=object), "was refused"),
        (np.array([["a"]]), r"holds <U1 of shape \(1, 1\); expected .* \(n_models, n_train\)"),
        (np.zeros(3), r"holds float64 of shape \(3,\)"),
        (np.zeros((0, 3)), r"shape \(0, 3\)"),
        (np.zeros((1, 1), dtype=[("a", "f4")]), "holds"),
    ],
)
def test_refuses_all_but_numbers(tmp_path, capsys, content, message):
    np.save(tmp_path / "a.npy", content, allow_pickle=True)
    with pytest.raises(ValueError, match=message):
        open_npy(tmp_path / "a.npy", ("n_models", "n_train"))
    assert "code ran" not in capsys.readouterr().out


def test_refuses_pickles_archives_and_torn_files(tmp_path, capsys):
    (tmp_path / "pickle.npy").write_bytes(pickle.dumps(Unwelcome()))
    np.savez(tmp_path / "archive.npz", a=np.zeros((2, 2)))
    np.save(tmp_path / "whole.npy", np.zeros((20, 20)))
    (tmp_path / "torn.npy").write_bytes((tmp_path / "whole.npy").read_bytes()[:600])
    (tmp_path / "empty.npy").write_bytes(b"")
    for name in ("pickle.npy", "archive.npz", "torn.npy", "empty.npy"):
        with pytest.raises(ValueError, match=rf"{name} was refused .* never opened"):
            open_npy(tmp_path / name, ("a", "b"))
    with pytest.raises(ValueError, match="is not a file"):
        open_npy(tmp_path, ("a", "b"))
    assert "code ran" not in capsys.readouterr().out


@pytest.mark.parametrize(("block_bytes", "n_blocks"), [(1, 7), (40, 7), (80, 4), (10**6, 1)])
def test_blocks_cover_all_rows_once(block_bytes, n_blocks):
    array = np.zeros((7, 2, 5))
    blocks = list(row_blocks(array, block_bytes=block_bytes))
    assert len(blocks) == n_blocks
    assert [i for rows in blocks for i in range(7)[rows]] == list(range(7))


def test_writes_blocks_as_one_array(tmp_path):
    expected = np.arange(21.0).reshape(7, 3)
    blocks = (expected[start : start + 2] for start in range(0, 7, 2))
    path = write_npy(tmp_path / "a.npy", (7, 3), np.float32, blocks)
    written = np.load(path)
    assert written.dtype == np.float32
    np.testing.assert_array_equal(written, expected)


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path):
    np.save(tmp_path / "a.npy", np.ones(2))

    def blocks():
        yield np.zeros((1, 3))
        raise RuntimeError("disk on fire")

    with pytest.raises(RuntimeError, match="on fire"):
        write_npy(tmp_path / "a.npy", (2, 3), np.float32, blocks())
    assert [p.name for p in tmp_path.iterdir()] == ["a.npy"]
    assert np.load(tmp_path / "a.npy").tolist() == [1, 1]


WRITE = """
import sys, numpy as np
from mdhelpers.base.arrays import write_tensors
texts = {name: "é" + name for name in ("method", "notes", "words", "report", "digest")}
write_tensors(sys.argv[1], {"b": np.arange(5.0), "a": np.eye(3, dtype="f4")}, texts)
"""


def test_every_process_writes_the_same_bytes(tmp_path):
    paths = [tmp_path / f"{i}.safetensors" for i in range(4)]
    for path in paths:
        subprocess.run([sys.executable, "-c", WRITE, str(path)], check=True)
    assert len({path.read_bytes() for path in paths}) == 1
    with safe_open(paths[0], framework="np") as file:
        assert file.metadata()["notes"] == "énotes"
        np.testing.assert_array_equal(file.get_tensor("a"), np.eye(3))


def test_arrays_need_not_be_contiguous_nor_numpys(tmp_path):
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    tensor = torch.tensor([True, False])
    count = torch.tensor(7)  # as batch norm's counters: no dimension
    arrays = {"turned": array.T, "tensor": tensor, "count": count}
    write_tensors(tmp_path / "x.safetensors", arrays)
    with safe_open(tmp_path / "x.safetensors", framework="np") as file:
        np.testing.assert_array_equal(file.get_tensor("turned"), array.T)
        np.testing.assert_array_equal(file.get_tensor("tensor"), tensor.numpy())
        assert (file.get_tensor("count").shape, int(file.get_tensor("count"))) == ((), 7)


@pytest.mark.skipif(os.name != "posix", reason="no modes")
def test_colleagues_may_read_what_the_umask_lets_them(tmp_path):
    subprocess.run(
        [sys.executable, "-c", "import os; os.umask(0o027);" + WRITE, str(tmp_path / "x")],
        check=True,
    )
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o640
