import numpy as np
import pytest

from mdhelpers.store import ModelStore, differing_keys

SHAPES = {"n_models": 12, "n_train": 11, "n_test": 5, "n_epochs": 2, "rows": 4}
IDENTITY = {"algorithm": {"lr": 0.1, "epochs": 2}, "data": "abc", "seed": 0}


def rows(seed: int) -> dict:
    rng = np.random.default_rng(seed)
    return {
        "masks": rng.random((4, 11)) < 0.5,
        "margins": rng.normal(size=(4, 5)).astype(np.float32),
        "accuracy": rng.random(4).astype(np.float32),
        "losses": rng.random((4, 2)).astype(np.float32),
        "seeds": rng.integers(0, 99, (4, 2)).astype(np.uint64),
        "slots": np.arange(4, dtype=np.int32),
    }


def test_what_is_written_is_read_back(tmp_path):
    store = ModelStore.create(tmp_path / "m.zarr", IDENTITY, SHAPES)
    written = [rows(task) for task in range(3)]
    for task in (2, 0, 1):
        assert not store.is_done(task)
        store.write_task(task, written[task])
        assert store.is_done(task)
    read = ModelStore.open(tmp_path / "m.zarr").read()
    for name in ("masks", "margins", "accuracy", "losses", "slots"):
        want = np.concatenate([part[name] for part in written])
        assert np.array_equal(getattr(read, name), want)


def test_missing_models_are_named(tmp_path):
    store = ModelStore.create(tmp_path / "m.zarr", IDENTITY, SHAPES)
    store.write_task(0, rows(0))
    with pytest.raises(ValueError, match=r"8 of 12 models are not trained.*model 4"):
        store.read()
    assert len(store.read(4).margins) == 4


def test_other_models_are_never_overwritten(tmp_path):
    ModelStore.create(tmp_path / "m.zarr", IDENTITY, SHAPES).write_task(0, rows(0))
    other = {**IDENTITY, "algorithm": {"lr": 0.2, "epochs": 2}}
    with pytest.raises(ValueError, match=r"algorithm\.lr was 0\.1, now 0\.2"):
        ModelStore.create(tmp_path / "m.zarr", other, SHAPES)
    assert ModelStore.open(tmp_path / "m.zarr").is_done(0)


def test_more_models_extend_a_store(tmp_path):
    ModelStore.create(tmp_path / "m.zarr", IDENTITY, SHAPES).write_task(0, rows(0))
    larger = ModelStore.create(tmp_path / "m.zarr", IDENTITY, {**SHAPES, "n_models": 20})
    assert larger.n_models == 20
    assert [larger.is_done(task) for task in range(5)] == [True, False, False, False, False]
    assert np.array_equal(larger.read(4).margins, rows(0)["margins"])


def test_a_flipped_byte_is_noticed(tmp_path):
    store = ModelStore.create(tmp_path / "m.zarr", IDENTITY, SHAPES)
    store.write_task(0, rows(0))
    chunk = tmp_path / "m.zarr" / "margins" / "c" / "0" / "0"
    content = bytearray(chunk.read_bytes())
    content[len(content) // 2] ^= 1
    chunk.write_bytes(content)
    with pytest.raises((RuntimeError, ValueError), match=r"(?i)checksum|crc"):
        store.read(4)


def test_no_store_says_what_to_run(tmp_path):
    with pytest.raises(FileNotFoundError, match="02_mask_training"):
        ModelStore.open(tmp_path / "none.zarr")


def test_differences_are_named_by_their_path():
    assert differing_keys({"a": {"b": 1}, "c": 2}, {"a": {"b": 3}, "d": 4}) == [
        "a.b was 1, now 3",
        "c was 2, now None",
        "d was None, now 4",
    ]
