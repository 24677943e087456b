"""Stores and score files that were damaged, or made to do harm: refused by name, nothing run."""

import json
import os
import pickle
import sys
from pathlib import Path

import google_crc32c
import numpy as np
import pytest
import torch
from numcodecs import Zstd

from mdhelpers.base import records
from mdhelpers.base.arrays import open_npy
from mdhelpers.formats import models, scores
from mdhelpers.formats.scores import load_scores, read_record
from mdhelpers.training.locations import PROTOCOLS, check_url, open_location
from mdhelpers.training.store import ModelStore
from mdhelpers.training.store_files import ARRAYS, DamagedChunk, content_size
from mdhelpers.training.tasks import TrainingPlan
from mdhelpers.training.weights import read_weights

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
import fuzz_stores
from fuzz_stores import SIGN, Trap, make_store

STRAY = (".DS_Store", "Thumbs.db", ".nfs0000000a00000001", "._0", "0 (conflicted copy)", "00", "٣")


@pytest.fixture
def path(tmp_path):
    """A sound store of three tasks."""
    make_store(tmp_path / "m.zarr")
    return tmp_path / "m.zarr"


def edit(file: Path, change) -> None:
    content = json.loads(file.read_text("utf-8"))
    change(content)
    file.write_text(json.dumps(content), "utf-8")


# What is not ours


@pytest.mark.parametrize("name", STRAY)
def test_stray_files_are_passed_over_everywhere(path, name):
    sound = ModelStore.open(path)
    before, digest = sound.read(), sound.digest()
    for array in ARRAYS:
        (path / array / "c" / name).write_text("x")
        (path / array / "c" / f"{name}.folder").mkdir()
        (path / array / "c" / f"{name}.folder" / "0").write_text("x")
    store = ModelStore.open(path)
    assert store.done_tasks() == store.done_tasks("slots") == {0, 1, 2}
    assert store.missing_tasks() == store.check() == []
    assert store.digest() == digest
    assert np.array_equal(store.read().margins, before.margins)


CHANGES = {
    "codec": ("codecs", [{"name": "numcodecs.pickle"}], "codecs is"),
    "one codec more": ("codecs", [{"name": "bytes"}, {"name": "blosc"}], "codecs is"),
    "zarr_format": ("zarr_format", 2, "zarr_format is 2; expected 3"),
    "true for 1": ("node_type", True, "node_type is true"),
    "dtype": ("data_type", "float64", 'data_type is "float64"; expected float32 or float16'),
    "object": ("data_type", "|O", "data_type is"),
    "rows": ("shape", [10**15, 6], "shape is .*; expected 2 whole numbers"),
    "bool": ("shape", [True, 6], "shape is"),
    "columns": ("shape", [12, 7], "chunks of whole rows"),
    "transformer": ("storage_transformers", [{"name": "x"}], "says 'storage_transformers'"),
    "keys": ("chunk_key_encoding", {"name": "v2"}, "chunk_key_encoding is"),
    "fill": ("fill_value", 0, "fill_value is 0"),
    "more": ("extra", {"must_understand": False}, "says 'extra'"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_metadata_that_we_never_write_is_refused_by_its_file(path, change):
    key, value, said = CHANGES[change]
    edit(path / "margins" / "zarr.json", lambda content: content.update({key: value}))
    with pytest.raises(ValueError, match=rf"m\.zarr/margins/zarr\.json.*{said}"):
        ModelStore.open(path, read_only=True)


@pytest.mark.parametrize("content", ["[]", "", "{", "null", '{"a": ' * 100000, "[" * 100000])
def test_metadata_that_is_no_mapping_is_refused_by_its_file(path, content):
    (path / "slots" / "zarr.json").write_text(content)
    with pytest.raises(ValueError, match=r"m\.zarr/slots/zarr\.json"):
        ModelStore.open(path)


def test_arrays_must_agree(path):
    edit(path / "seeds" / "zarr.json", lambda content: content.update(shape=[8, 2]))
    with pytest.raises(ValueError, match=r"seeds/zarr\.json: shape is \[8, 2\].*rows of margins"):
        ModelStore.open(path)


def test_an_array_that_was_extended_before_the_others_is_read_as_far_as_they_go(path):
    """As it stands for a moment while another process extends the store."""
    edit(path / "losses" / "zarr.json", lambda content: content.update(shape=[10**7, 2]))
    assert ModelStore.open(path).read().losses.shape == (12, 2)


OLD = {"zarr_format": 2, "shape": [12, 6], "chunks": [4, 6], "dtype": "|O", "fill_value": None}
OLD |= {"order": "C", "compressor": None, "filters": [{"id": "pickle", "protocol": 4}]}


def plant(path: Path) -> Path:
    """Chunks that leave a sign where `pickle` decodes them."""
    for task in range(3):
        for chunk in (path / "margins" / f"{task}.0", path / "margins" / f"c/{task}/0"):
            chunk.write_bytes(pickle.dumps(Trap(path.parent / SIGN)))
    return path.parent / SIGN


def test_consolidated_arrays_of_the_older_format_are_refused(path):
    sign = plant(path)
    inner = {"margins": OLD | {"attributes": {}, "node_type": "array"}}
    whole = {"kind": "inline", "must_understand": False, "metadata": inner}
    edit(path / "zarr.json", lambda content: content.update(consolidated_metadata=whole))
    with pytest.raises(ValueError, match=r"m\.zarr/zarr\.json says 'consolidated_metadata'"):
        ModelStore.open(path).read()
    assert not sign.exists()


@pytest.mark.parametrize("name", [".zgroup", ".zmetadata", "margins/.zarray", "slots/.zattrs"])
def test_files_of_the_older_format_are_refused(path, name):
    sign = plant(path)
    (path / name).write_text(json.dumps(OLD))
    with pytest.raises(ValueError, match=rf"{name} is of zarr's older format"):
        ModelStore.open(path).read()
    assert not sign.exists()


def test_empty_words_of_other_versions_of_zarr_are_taken(path):
    nothing = {"kind": "inline", "must_understand": False, "metadata": {}}
    edit(path / "zarr.json", lambda content: content.update(consolidated_metadata=nothing))
    edit(path / "masks" / "zarr.json", lambda content: content.pop("storage_transformers"))
    edit(path / "masks" / "zarr.json", lambda content: content.update(dimension_names=None))
    assert ModelStore.open(path).missing_tasks() == []


# Chunks whose check sum is right


def seal(path: Path, content: bytes) -> None:
    path.write_bytes(content + google_crc32c.value(content).to_bytes(4, "little"))


@pytest.mark.parametrize("size", [0, 95, 97, 2**26])
def test_a_chunk_unpacks_to_its_array_s_size_or_not_at_all(path, size):
    seal(path / "margins/c/1/0", Zstd(3).encode(bytes(size)))
    with pytest.raises(ValueError, match=r"m\.zarr: margins of tasks 0 to 2 cannot be read"):
        ModelStore.open(path).read()


def test_the_size_that_a_frame_tells_is_read_as_it_is_written():
    for size in (1, 255, 256, 300, 65535, 65791, 65792, 2**20):
        assert content_size(Zstd(3).encode(bytes(size))[:18]) == size
    assert content_size(b"\x28\xb5\x2f\xfd\xe0" + (2**60).to_bytes(8, "little")) == 2**60
    assert content_size(b"nonsense") is None


# Links and pipes


def test_links_within_a_store_are_neither_read_nor_written_nor_followed(path, tmp_path):
    outside = tmp_path / "outside"
    (path / "margins" / "c" / "1").rename(outside)
    (path / "margins" / "c" / "1").symlink_to(outside)
    before = (outside / "0").read_bytes()
    store = ModelStore.open(path)
    for do in (store.done_tasks, store.digest, store.read, lambda: store.forget(1), store.check):
        with pytest.raises(ValueError, match=r"m\.zarr/margins/c/1 is a link"):
            do()
    rows = fuzz_stores.SHAPES["rows"]
    arrays = {"masks": np.ones((rows, 19), bool), "margins": np.ones((rows, 6), "f4")}
    arrays |= {"accuracy": np.ones(rows, "f4"), "losses": np.ones((rows, 2), "f4")}
    arrays |= {"seeds": np.ones((rows, 2), "u8"), "slots": np.zeros(rows, "i4")}
    with pytest.raises(ValueError, match="is a link"):
        store.write_task(1, arrays | {"seconds": np.ones(rows, "f4")})
    assert (outside / "0").read_bytes() == before
    store.folder.clear()
    assert not path.exists()
    assert (outside / "0").read_bytes() == before


def test_the_store_itself_may_be_a_link(path, tmp_path):
    path.rename(tmp_path / "elsewhere.zarr")
    path.symlink_to(tmp_path / "elsewhere.zarr")
    assert ModelStore.open(path).missing_tasks() == []


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_is_waited_for_by_nobody(path):
    (path / "margins/c/1/0").unlink()
    os.mkfifo(path / "margins/c/1/0")
    store = ModelStore.open(path)
    assert store.missing_tasks() == [1]
    (path / "slots" / "zarr.json").unlink()
    os.mkfifo(path / "slots" / "zarr.json")
    with pytest.raises(ValueError, match=r"slots/zarr\.json is not there"):
        ModelStore.open(path)


# What a store holds


def test_a_digest_sees_every_chunk_and_every_word(path):
    store = ModelStore.open(path)
    digests = {store.digest()}
    for name in ARRAYS:
        file = path / store.chunk_key(name, 1)
        content = file.read_bytes()
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        digests.add(store.digest())
        file.unlink()
        digests.add(store.digest())
        file.write_bytes(content)
    a, b = (path / store.chunk_key("slots", task) for task in (0, 1))
    a.write_bytes(b.read_bytes() + b"")
    edit(path / "zarr.json", lambda content: content["attributes"]["identity"].update(data="y"))
    digests.add(store.digest())
    assert len(digests) == 1 + 2 * len(ARRAYS) + 1


def test_the_same_models_have_one_digest_wherever_they_lie(path, tmp_path):
    make_store(tmp_path / "again.zarr")
    assert ModelStore.open(path).digest() == ModelStore.open(tmp_path / "again.zarr").digest()


def test_a_lost_task_is_missing(path):
    (path / "margins/c/1/0").unlink()
    assert ModelStore.open(path).missing_tasks() == [1]


def test_what_killed_writers_left_goes_when_it_is_old(path):
    store = ModelStore.open(path)
    old, new = path / "slots/c/1.a.partial", path / "slots/c/1.b.partial"
    inner = path / "margins/c/1/0.a.partial"
    for file in (old, new, inner):
        file.write_bytes(b"half")
    for file in (old, inner):
        os.utime(file, (0, 0))
    ModelStore.create(path, store.identity, fuzz_stores.SHAPES)
    store._prepare(1)
    assert [file.exists() for file in (old, new, inner)] == [False, True, False]


def test_an_unfinished_store_bears_the_name_that_is_cleaned(tmp_path, monkeypatch):
    names = []
    monkeypatch.setattr(Path, "rename", lambda self, _: names.append(self.name))
    open_location(tmp_path / "m.zarr").create({"zarr.json": b"{}"})
    assert records.UNFINISHED.fullmatch(names[0])
    assert list(tmp_path.iterdir()) == []


# URLs


SECRET = "hunter2"
REFUSED = {
    f"simplecache::s3://bucket/{SECRET}": "chains protocols",
    f"s3::{SECRET}": "chains protocols",
    f"s3://key:{SECRET}@bucket/m": "holds a user, key or query",
    f"s3://key:{SECRET}/x@bucket/m": "holds a user, key or query",
    f"s3://{SECRET}@bucket/m": "holds a user, key or query",
    f"sftp://me:{SECRET}@host/m": "holds a user, key or query",
    f"abfs://c@a.dfs.core.windows.net/m?sig={SECRET}": "holds a user, key or query",
    f"s3://bucket/m#{SECRET}": "holds a user, key or query",
    f"http://host/{SECRET}": "protocol not known for models: http",
    f"github://a:b@{SECRET}": "protocol not known for models: github",
    f"zip://x::{SECRET}://b": "protocol not known|chains",
    f"local://{SECRET}": "protocol not known",
    f"s3:/bucket/{SECRET}": "neither a path nor a URL",
    f"file://host/{SECRET}": "names a host",
    f"s3://b/{SECRET}\n": "control characters",
    "memory://": "names no bucket",
}


@pytest.mark.parametrize("url", REFUSED)
def test_urls_that_hold_secrets_or_chains_are_refused_without_a_word_of_them(url):
    for check in (check_url, open_location):
        with pytest.raises(ValueError, match=REFUSED[url]) as error:
            check(url)
        assert SECRET not in str(error.value)


def test_plain_urls_and_paths_pass():
    for protocol in PROTOCOLS:
        check_url(f"{protocol}:///data/models" if protocol == "file" else f"{protocol}://b/models")
    for url in ("abfs://c@a.dfs.core.windows.net/m", "sftp://me@host:22/m", "hdfs://h:8020/m", ""):
        check_url(url)
    for path in ("~/models", "a b/{c}%20'd'", "/data/été", Path("x"), "C:\\models"):
        check_url(path)


def test_a_models_url_that_is_a_path_is_one_as_all_are(tmp_path, monkeypatch):
    from mdhelpers.base.places import resolve
    from mdhelpers.training.algorithms import parse_algorithm

    spec = parse_algorithm({"name": "a"})

    def place(url: str) -> Path | str:
        given = (tmp_path, (spec, spec), "f", 20, 6, 0, 0.5, 8, 0, 0, 8, "cpu")
        return TrainingPlan(*given, models_url=url).store_path(2)

    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    assert place("~/m") == tmp_path / "home" / "m" / "models_2.zarr"
    assert place("m") == resolve("m") / "models_2.zarr"
    assert place("s3://b/m/") == "s3://b/m/models_2.zarr"
    assert place("") == tmp_path / "models_2.zarr"


# Scores and weights


def test_numpy_s_header_is_bounded_and_nothing_is_unpickled(tmp_path):
    file = tmp_path / "a.npy"
    np.save(file, np.array([[Trap(tmp_path / SIGN)]], dtype=object), allow_pickle=True)
    heads = (b"{'descr': '<f4', 'shape': (" + b"(" * 9000, b"{'descr': '<f4'" + b"L" * 50, b"1L 'x")
    contents = [file.read_bytes()]
    contents += [b"\x93NUMPY\x01\x00" + len(h).to_bytes(2, "little") + h for h in heads]
    for content in contents:
        file.write_bytes(content)
        with pytest.raises(ValueError, match=r"a\.npy"):
            open_npy(file, ("a", "b"))
    assert not (tmp_path / SIGN).exists()


def test_tensors_that_claim_more_than_they_store_are_refused(tmp_path):
    file = tmp_path / "a.pt"
    torch.save({"weight": torch.zeros(1).expand(10**6, 10**6)}, file)
    with pytest.raises(ValueError, match=r"a\.pt claims 1000000000000 numbers and stores fewer"):
        load_scores(file)


def test_archives_are_as_torch_writes_them(tmp_path):
    import zipfile

    torch.save({"weight": torch.ones(4, 3)}, tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "a.pt") as source:
        parts = {name: source.read(name) for name in source.namelist()}
    with zipfile.ZipFile(tmp_path / "b.pt", "w", zipfile.ZIP_DEFLATED) as target:
        for name, content in parts.items():
            target.writestr(name, content)
    with pytest.raises(ValueError, match=r"b\.pt was refused.*compressed archive"):
        load_scores(tmp_path / "b.pt")
    content = (tmp_path / "a.pt").read_bytes()
    place = content.index(np.float32(1).tobytes() * 4)
    (tmp_path / "a.pt").write_bytes(content[:place] + b"\1" + content[place + 1 :])
    with pytest.raises(ValueError, match=r"a\.pt was refused.*fails its check sum"):
        load_scores(tmp_path / "a.pt")


def test_columns_out_of_range_are_never_written(tmp_path):
    from safetensors.numpy import save_file

    file = tmp_path / "sparse.safetensors"
    arrays = {"bias": np.zeros(2, "f4"), "lam": np.ones(2, "f4"), "lam_at_edge": np.zeros(2, bool)}
    arrays |= {"slot_ids": np.zeros(0, "i8"), "slot_effects": np.zeros((0, 2), "f4")}
    arrays |= {"weights_values": np.ones(2, "f4"), "weights_shape": np.array([2, 3])}
    arrays |= {"weights_starts": np.array([0, 1, 2])}
    save_file(arrays | {"weights_columns": np.array([0, 10**6], "i4")}, file, {"method": "lasso"})
    with pytest.raises(ValueError, match=r"sparse\.safetensors is damaged"):
        load_scores(file)
    wide = {"weights_shape": np.array([10**6, 10**7]), "weights_columns": np.array([0, 1], "i4")}
    save_file(arrays | wide, file, {"method": "lasso"})
    with pytest.raises(ValueError, match=r"sparse\.safetensors holds datamodels of shape"):
        load_scores(file, n_train=3, n_test=2)


def test_a_mapping_that_holds_itself_ends(tmp_path):
    content: dict = {}
    content["model"] = content
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(ValueError, match=r"w\.pt: weights should be a mapping"):
        read_weights(tmp_path / "w.pt")
    torch.save({1: torch.ones(2)}, tmp_path / "w.pt")
    with pytest.raises(ValueError, match=r"w\.pt should hold named tensors"):
        read_weights(tmp_path / "w.pt")


def test_records_beside_scores_may_hold_anything(tmp_path):
    file = tmp_path / "train_dataset_metadata.json"
    file.write_text("[" * 100000)
    with pytest.raises(ValueError, match=r"metadata\.json is not JSON"):
        read_record(file)
    file.write_text('{"indices": 5}')
    scores._check_datasets(tmp_path / "pairwise_scores.safetensors", (2, 3))
    (tmp_path / "spec.json").write_text('{"num_models": 1, "schema": {"a": {"dtype": "(", '
                                        '"shape": [1]}}}')  # fmt: skip
    with pytest.raises(ValueError, match=r"spec\.json in"):
        models._check_spec(tmp_path, {"a": np.ones((1, 1))})


def test_masks_and_margins_that_cannot_be_are_named(tmp_path):
    np.save(tmp_path / "masks.npy", np.full((4, 3), 7, np.uint8))
    np.save(tmp_path / "margins.npy", np.ones((4, 2), np.float32))
    files = tmp_path / "masks.npy", tmp_path / "margins.npy"
    with pytest.raises(ValueError, match=r"masks\.npy: masks hold"):
        models.read_masks_and_margins(*files)
    np.save(tmp_path / "masks.npy", np.ones((4, 3), np.uint8))
    np.save(tmp_path / "margins.npy", np.full((4, 2), np.nan, np.float32))
    with pytest.raises(ValueError, match=r"margins\.npy: the margin of model 0"):
        models.read_masks_and_margins(*files)


def test_changed_files_are_read_rightly_or_refused_by_name(tmp_path):
    rows = fuzz_stores.fuzz(tmp_path, 120, seed=1)
    assert [row for row in rows if row["outcome"] not in fuzz_stores.FINE] == []
    assert len({row["change"] for row in rows}) > 10


def test_the_fuzz_sees_what_is_executed_and_what_is_not_named(tmp_path, monkeypatch):
    (tmp_path / "a.pt").write_bytes(pickle.dumps(Trap(tmp_path / SIGN)))
    monkeypatch.setattr(fuzz_stores, "read", lambda path: pickle.loads(path.read_bytes()) or {})
    fuzz_stores.outcome_of(tmp_path / "a.pt", {}, "")
    assert (tmp_path / SIGN).exists()
    monkeypatch.setattr(fuzz_stores, "read", lambda path: int("x"))  # noqa: ARG005
    assert fuzz_stores.outcome_of(tmp_path / "a.pt", {}, "")[0] == "not named"


def test_damage_is_still_damage(path):
    (path / "margins/c/1/0").write_bytes(b"x" * 50)
    with pytest.raises(DamagedChunk, match="margins of task 1"):
        ModelStore.open(path).read()
