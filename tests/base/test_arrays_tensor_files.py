"""Files of arrays: the same bytes for the same content, and the mode of the umask."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors import safe_open

from mdhelpers.base.arrays import write_tensors

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
