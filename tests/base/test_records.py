import contextlib
import datetime
import errno
import json
import multiprocessing
from pathlib import Path

import numpy as np
import pytest
from pydantic import BaseModel

from mdhelpers.base import records


class Spec(BaseModel):
    lr: float


def test_plain_turns_numpy_and_friends_into_json():
    value = {
        "scalar": np.float32(0.5),
        "count": np.int64(3),
        "flag": np.bool_(True),
        "array": np.array([[1.0, np.nan], [np.inf, 2.0]]),
        "spec": Spec(lr=0.1),
        "path": Path("a/b"),
        "day": datetime.date(2026, 11, 21),
        "set": {"b", "a"},
        1: (None, "text"),
    }
    assert records.plain(value) == {
        "scalar": 0.5,
        "count": 3,
        "flag": True,
        "array": [[1.0, None], [None, 2.0]],
        "spec": {"lr": 0.1},
        "path": "a/b",
        "day": "2026-11-21",
        "set": ["a", "b"],
        "1": [None, "text"],
    }
    json.dumps(records.plain(value), allow_nan=False)


def test_plain_refuses_what_json_cannot_say():
    with pytest.raises(ValueError, match="A function cannot be recorded"):
        records.plain({"model": lambda: None})


def test_digest_sees_values_not_their_order():
    assert records.digest({"a": 1, "b": 2}) == records.digest({"b": 2, "a": 1})
    assert records.digest({"a": 1}) != records.digest({"a": 2})
    assert records.digest({"a": np.float64(0.5)}) == records.digest({"a": 0.5})


def test_file_digest_follows_the_contents(tmp_path):
    file = tmp_path / "scores.pt"
    file.write_bytes(b"one")
    first = records.file_digest(file)
    file.write_bytes(b"two")
    assert records.file_digest(file) != first


def test_write_leaves_no_half_file_and_nothing_beside_it(tmp_path, monkeypatch):
    file = tmp_path / "results.json"
    records.write_json(file, {"a": 1})
    monkeypatch.setattr(records.os, "replace", lambda *_: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        records.write_json(file, {"a": 2})
    assert records.read_json(file) == {"a": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / "results.json").write_text("{")
    with pytest.raises(ValueError, match=r"results\.json is not JSON"):
        records.read_json(tmp_path / "results.json")


def test_differences_name_nested_values():
    before = {"n_models": 128, "algorithm_1": {"lr": 0.1, "epochs": 3}, "gone": "x"}
    after = {"n_models": 256, "algorithm_1": {"lr": 0.2, "epochs": 3}, "new": [1]}
    assert records.differences(before, after) == [
        "n_models changed: 128 → 256",
        "algorithm_1.lr changed: 0.1 → 0.2",
        "gone is gone, was x",
        "new is new: [1]",
    ]
    assert records.differences(before, before) == []


def test_few_counts_the_rest():
    assert records.few(["a", "b"]) == "a; b"
    assert records.few(list("abcde")) == "a; b; c; and 2 more"


def _hold(path, entered, leave):
    with records.locked(path):
        entered.set()
        leave.wait(20)


def test_a_lock_keeps_others_out_until_its_process_ends(tmp_path):
    context = multiprocessing.get_context("spawn")
    entered, leave = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(tmp_path / ".lock", entered, leave))
    other.start()
    assert entered.wait(30)
    with pytest.raises(records.Busy), records.locked(tmp_path / ".lock", wait=False):
        pass
    other.kill()
    other.join()
    with records.locked(tmp_path / ".lock", wait=False):
        pass


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL])
def test_a_disk_without_locks_is_no_hindrance(tmp_path, monkeypatch, code):
    def refused(*_):
        raise OSError(code, "No locks available")

    monkeypatch.setattr(records.fcntl, "flock", refused)
    with records.locked(tmp_path / "lock", wait=False):
        pass


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES])
def test_where_nothing_can_be_written_nothing_is_locked(tmp_path, monkeypatch, code):
    def refused(*_, **__):
        raise OSError(code, "read-only")

    monkeypatch.setattr(records.Path, "open", refused)
    with records.locked(tmp_path / "lock", wait=False):
        pass


def test_a_full_disk_is_no_disk_without_locks(tmp_path, monkeypatch):
    def refused(*_, **__):
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(records.Path, "open", refused)
    with pytest.raises(OSError, match="full"), records.locked(tmp_path / "lock"):
        pass


def test_a_disk_without_modes_is_no_hindrance(tmp_path, monkeypatch):
    def refused(*_, **__):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(records.os, "chmod", refused)
    records.write_json(tmp_path / "x.json", {"a": 1})
    assert records.read_json(tmp_path / "x.json") == {"a": 1}


def test_what_fails_while_it_is_written_leaves_the_old_file(tmp_path):
    path = tmp_path / "x.txt"
    path.write_text("old")
    with contextlib.suppress(KeyboardInterrupt), records.written(path) as unfinished:
        unfinished.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("length", [1, 200, 250])
def test_long_names_have_room_for_what_is_unfinished(tmp_path, length):
    path = tmp_path / ("é" * (length // 2) + ".x")
    with records.written(path) as unfinished:
        unfinished.write_text("")
        assert records.UNFINISHED.fullmatch(unfinished.name)
    assert path.exists()
