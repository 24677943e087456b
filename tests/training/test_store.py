import errno
import os
import shutil
import subprocess
import sys
import uuid

import fsspec
import numpy as np
import pytest
import zarr

from mdhelpers.training.locations import LocalFolder, RemoteFolder, open_location
from mdhelpers.training.store import ModelStore
from mdhelpers.training.store_files import ARRAYS, DamagedChunk, DiskFull, differing_keys, is_intact

SHAPES = {"n_models": 12, "n_train": 11, "n_test": 5, "n_epochs": 2, "rows": 4}
IDENTITY = {"algorithm": {"lr": 0.1, "epochs": 2}, "data": "abc", "seed": 0}
READ = ("masks", "margins", "accuracy", "losses", "slots", "seconds")


def rows(seed: int) -> dict:
    rng = np.random.default_rng(seed)
    return {
        "masks": rng.random((4, 11)) < 0.5,
        "margins": rng.normal(size=(4, 5)).astype(np.float32),
        "accuracy": rng.random(4).astype(np.float32),
        "losses": rng.random((4, 2)).astype(np.float32),
        "seeds": rng.integers(0, 99, (4, 2)).astype(np.uint64),
        "slots": np.arange(4, dtype=np.int32),
        "seconds": rng.random(4).astype(np.float32),
    }


def whole(name: str, tasks=range(3)) -> np.ndarray:
    return np.concatenate([rows(task)[name] for task in tasks])


def fill(location, tasks=range(3), **options) -> ModelStore:
    store = ModelStore.create(location, IDENTITY, SHAPES, **options)
    for task in tasks:
        store.write_task(task, rows(task))
    return store


@pytest.fixture
def bucket():
    """A URL without files of this machine, as `s3://bucket` is one."""
    url = f"memory://{uuid.uuid4().hex}"
    yield url
    fsspec.filesystem("memory").rm(url, recursive=True)


@pytest.fixture(params=["path", "file", "memory"])
def location(request, tmp_path):
    """The same store on a path and under two kinds of URL."""
    if request.param == "path":
        return tmp_path / "m.zarr"
    if request.param == "file":
        return f"file://{tmp_path}/m%20of%20one.zarr"
    return request.getfixturevalue("bucket") + "/m.zarr"


def damage(store: ModelStore, key: str, change) -> None:
    content = change(store.folder.read(key))
    store.folder.remove([key])
    if content is not None:
        put(store, key, content)


def put(store: ModelStore, key: str, content: bytes) -> None:
    """Write a file as it is, past zarr."""
    if isinstance(store.folder, RemoteFolder):
        store.folder.fs.pipe_file(f"{store.folder.root}/{key}", content)
    else:
        (store.path / key).parent.mkdir(parents=True, exist_ok=True)
        (store.path / key).write_bytes(content)


def flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


DAMAGES = {
    "flipped": (flipped, "fails its checksum"),
    "cut": (lambda content: content[:-3], "fails its checksum"),
    "emptied": (lambda _: b"", "fails its checksum"),
    "lost": (lambda _: None, "is missing"),
}


def test_what_is_written_is_read_back(location):
    store = ModelStore.create(location, IDENTITY, SHAPES)
    for task in (2, 0, 1):
        assert not store.is_done(task)
        store.write_task(task, rows(task))
        assert store.is_done(task)
    read = ModelStore.open(location, read_only=True).read()
    for name in READ:
        assert np.array_equal(getattr(read, name), whole(name)), name
    assert np.array_equal(store.read_array("seeds"), whole("seeds"))


def test_one_listing_tells_what_is_done(location):
    store = fill(location, (2, 0))
    assert store.done_tasks() == {0, 2}
    assert ModelStore.create(location, IDENTITY, SHAPES).done_tasks() == {0, 2}


def test_a_file_url_is_the_folder_that_it_names(tmp_path):
    fill(f"file://{tmp_path}/m%20of%20one.zarr", (1,))
    assert ModelStore.open(tmp_path / "m of one.zarr").done_tasks() == {1}


def test_arrays_of_fill_values_are_written_too(location):
    """zarr leaves out chunks that hold the fill value only: they would count as missing."""
    store = ModelStore.create(location, IDENTITY, SHAPES)
    own = {"slots": np.full(4, -1, np.int32), "losses": np.full((4, 2), np.nan, np.float32)}
    for task in range(3):
        store.write_task(task, rows(task) | own)
    assert ModelStore.open(location).check() == []
    assert (store.read().slots == -1).all()


def test_a_reader_cannot_write(location):
    fill(location, (0,))
    reader = ModelStore.open(location, read_only=True)
    with pytest.raises(ValueError, match="read-only"):
        reader.write_task(1, rows(1))
    assert reader.done_tasks() == {0}


def test_missing_models_are_named(location):
    store = fill(location, (0,))
    with pytest.raises(ValueError, match=r"8 of 12 models are not trained.*model 4"):
        store.read()
    assert len(store.read(4).margins) == 4


def test_a_task_with_another_shape_is_refused(tmp_path):
    store = ModelStore.create(tmp_path / "m.zarr", IDENTITY, SHAPES)
    with pytest.raises(ValueError, match=r"margins have shape \(4, 3\).*\(4, 5\)"):
        store.write_task(0, rows(0) | {"margins": np.zeros((4, 3), np.float32)})
    without = {name: values for name, values in rows(0).items() if name != "seconds"}
    with pytest.raises(ValueError, match=r"missing: \['seconds'\]"):
        store.write_task(0, without)
    assert store.done_tasks() == set()


# Blocks


def test_blocks_are_what_indexing_the_whole_gives(location):
    store = fill(location)
    margins, masks = whole("margins"), whole("masks")
    for r in (slice(None), slice(3, 9), slice(1, 11, 3), np.array([7, 0, 11]), [5]):
        for c in (slice(None), slice(1, 4), np.array([4, 0])):
            block = store.read_margins(r, c)
            assert np.array_equal(block, margins[r][:, c])
            assert block.dtype == np.float32
        assert np.array_equal(store.read_masks(r), masks[r])
        packed = store.read_masks(r, packed=True)
        assert np.array_equal(packed, np.packbits(masks[r], axis=1))
    assert np.array_equal(store.read(packed=True).masks, np.packbits(masks, axis=1))


def test_a_block_asks_for_its_own_rows_only(tmp_path):
    store = fill(tmp_path / "m.zarr", (1,))
    assert np.array_equal(store.read_margins(slice(4, 8)), rows(1)["margins"])
    with pytest.raises(ValueError, match=r"1 of 5 models are not trained.*model 8"):
        store.read_margins(slice(4, 9))


# Margins of 16 bits


def test_float16_halves_the_margins_and_is_float32_in_memory(tmp_path):
    store = fill(tmp_path / "m.zarr", margins_dtype="float16")
    read = store.read().margins
    assert read.dtype == np.float32
    assert np.array_equal(read, whole("margins").astype(np.float16))
    assert store.arrays["margins"].dtype == np.float16
    with pytest.raises(ValueError, match="margins_dtype was 'float16', now 'float32'"):
        ModelStore.create(tmp_path / "m.zarr", IDENTITY, SHAPES)


def test_a_margin_beyond_float16_is_refused(tmp_path):
    store = fill(tmp_path / "m.zarr", (0,), margins_dtype="float16")
    large = rows(1)["margins"]
    large[2, 3] = -7e4
    with pytest.raises(ValueError, match=r"size 70000 does not fit float16.*float32"):
        store.write_task(1, rows(1) | {"margins": large})
    assert store.done_tasks() == {0}


def test_an_unknown_dtype_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"'int8'.*float32.*float16"):
        ModelStore.create(tmp_path / "m.zarr", IDENTITY, SHAPES, margins_dtype="int8")


# Whose models these are


def test_other_models_are_never_overwritten(location):
    fill(location, (0,))
    other = {**IDENTITY, "algorithm": {"lr": 0.2, "epochs": 2}}
    with pytest.raises(ValueError, match=r"algorithm\.lr was 0\.1, now 0\.2.*--force"):
        ModelStore.create(location, other, SHAPES)
    assert ModelStore.open(location).is_done(0)


def test_other_images_are_named(tmp_path):
    fill(tmp_path / "m.zarr", (0,))
    said = "trained on other images: data was 'abc', now 'xyz'"
    with pytest.raises(ValueError, match=said):
        ModelStore.create(tmp_path / "m.zarr", {**IDENTITY, "data": "xyz"}, SHAPES)
    with pytest.raises(ValueError, match=said):
        ModelStore.open(tmp_path / "m.zarr", {"data": "xyz"})
    assert ModelStore.open(tmp_path / "m.zarr", {"data": "abc"}).done_tasks() == {0}


def test_other_shapes_are_named(tmp_path):
    fill(tmp_path / "m.zarr", (0,))
    with pytest.raises(ValueError, match="n_test was 5, now 6"):
        ModelStore.create(tmp_path / "m.zarr", IDENTITY, {**SHAPES, "n_test": 6})


def test_another_format_is_named_before_anything_is_read(tmp_path):
    group = zarr.create_group(str(tmp_path / "old.zarr"))
    group.attrs["identity"] = {"format": 1, **IDENTITY}
    for make in (ModelStore.open, lambda path: ModelStore.create(path, IDENTITY, SHAPES)):
        with pytest.raises(ValueError, match=r"has format 1; .* reads format 2.*--force"):
            make(tmp_path / "old.zarr")
    zarr.create_group(str(tmp_path / "foreign.zarr"))
    with pytest.raises(ValueError, match="is no store of models"):
        ModelStore.open(tmp_path / "foreign.zarr")


def test_no_store_says_what_to_run(tmp_path):
    with pytest.raises(FileNotFoundError, match="02_mask_training"):
        ModelStore.open(tmp_path / "none.zarr")
    assert list(tmp_path.iterdir()) == []


def test_differences_are_named_by_their_path():
    assert differing_keys({"a": {"b": 1}, "c": 2}, {"a": {"b": 3}, "d": 4}) == [
        "a.b was 1, now 3",
        "c was 2, now None",
        "d was None, now 4",
    ]


# More models


def test_more_models_extend_a_store(location):
    fill(location, (0,))
    larger = ModelStore.create(location, IDENTITY, {**SHAPES, "n_models": 20})
    assert larger.n_models == ModelStore.open(location).n_models == 20
    assert [larger.is_done(task) for task in range(5)] == [True, False, False, False, False]
    larger.write_task(4, rows(4))
    assert np.array_equal(larger.read_margins(slice(16, 20)), rows(4)["margins"])
    assert np.array_equal(larger.read(4).margins, rows(0)["margins"])


def test_a_short_last_task_is_trained_anew_when_it_grows(tmp_path):
    short = {name: values[:2] for name, values in rows(1).items()}
    store = ModelStore.create(tmp_path / "m.zarr", IDENTITY, {**SHAPES, "n_models": 6})
    store.write_task(0, rows(0))
    store.write_task(1, short)
    assert np.array_equal(store.read().margins[4:], short["margins"])
    longer = ModelStore.create(tmp_path / "m.zarr", IDENTITY, SHAPES)
    assert longer.done_tasks() == {0}


def test_tasks_that_came_after_it_was_opened_are_left_out(tmp_path):
    early = fill(tmp_path / "m.zarr")
    later = ModelStore.create(tmp_path / "m.zarr", IDENTITY, {**SHAPES, "n_models": 16})
    later.write_task(3, rows(3))
    assert later.done_tasks() == {0, 1, 2, 3}
    assert early.done_tasks() == {0, 1, 2}
    assert np.array_equal(early.read().margins, whole("margins"))


def test_a_check_of_many_tasks_misses_none(tmp_path):
    """More chunks than are read in one go."""
    shapes = {**SHAPES, "n_models": 400, "rows": 1}
    store = ModelStore.create(tmp_path / "m.zarr", IDENTITY, shapes)
    for task in range(400):
        store.write_task(task, {name: values[:1] for name, values in rows(task).items()})
    for task in (0, 146, 399):
        damage(store, store.chunk_key("seeds", task), flipped)
    assert store.check() == [("seeds", 0), ("seeds", 146), ("seeds", 399)]


def test_two_that_create_at_once_find_one_store(tmp_path):
    """The one that comes second finds a store, not an error, and leaves nothing behind."""
    folder = open_location(tmp_path / "m.zarr")
    fill(tmp_path / "m.zarr", (0,))
    folder.create({"zarr.json": b"late"})
    assert ModelStore.open(tmp_path / "m.zarr").done_tasks() == {0}
    assert [path.name for path in tmp_path.iterdir()] == ["m.zarr"]


def test_a_store_half_laid_out_under_a_url_is_none(bucket, monkeypatch):
    """Under a URL the files come one by one: killed in between, the next one begins again."""
    location = f"{bucket}/m.zarr"

    def killed(self, contents):
        make(self, dict(list(contents.items())[:-1]))

    make = RemoteFolder.create
    monkeypatch.setattr(RemoteFolder, "create", killed)
    with pytest.raises(FileNotFoundError):
        ModelStore.create(location, IDENTITY, SHAPES)
    monkeypatch.undo()
    assert fill(location).done_tasks() == {0, 1, 2}


# Damage


@pytest.mark.parametrize("name", ARRAYS)
@pytest.mark.parametrize("kind", DAMAGES)
def test_damage_is_found_named_and_mended(location, name, kind):
    store = fill(location)
    key, (change, said) = store.chunk_key(name, 1), DAMAGES[kind]
    damage(store, key, change)
    if (name, kind) == ("margins", "lost"):  # without its mark a task is not done, and not damaged
        assert store.check() == []
        return
    assert store.check() == [(name, 1)]
    with pytest.raises(DamagedChunk, match=rf"{name} of task 1 \(models 4 to 7\) {said}.*--mend"):
        store.read_array(name)
    store.forget(1)
    assert store.done_tasks() == {0, 2}
    assert store.check() == []
    store.write_task(1, rows(1))
    assert np.array_equal(store.read().margins, whole("margins"))


def test_reading_finds_damage_whatever_is_read(tmp_path):
    for name in READ:
        store = fill(tmp_path / f"{name}.zarr")
        damage(store, store.chunk_key(name, 2), flipped)
        with pytest.raises(DamagedChunk, match=f"{name} of task 2"):
            store.read()
        assert len(store.read(8).margins) == 8


def test_the_message_names_the_run_to_mend(tmp_path):
    store = fill(tmp_path / "m.zarr")
    damage(store, "margins/c/0/0", flipped)
    with pytest.raises(DamagedChunk, match=f"mdhelpers status {tmp_path} --check --mend"):
        store.read_margins(slice(0, 4))


def test_check_goes_on_after_the_first(location):
    store = fill(location)
    for name, task in (("margins", 2), ("masks", 0), ("seconds", 0)):
        damage(store, store.chunk_key(name, task), flipped)
    assert store.check() == [("masks", 0), ("seconds", 0), ("margins", 2)]
    assert store.check([0], ["masks"]) == [("masks", 0)]


def test_every_byte_counts(tmp_path):
    content = fill(tmp_path / "m.zarr").folder.read("accuracy/c/0")
    assert is_intact(content)
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= 0x10
        assert not is_intact(bytes(changed)), place


# A disk that is full


def out_of_space(monkeypatch, name: str) -> None:
    """Writing to one array fails as on a full disk."""
    set_item = zarr.Array.__setitem__

    def fail(self, selection, values):
        if self.path == name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        set_item(self, selection, values)

    monkeypatch.setattr(zarr.Array, "__setitem__", fail)


@pytest.mark.parametrize("name", ["masks", "seconds", "margins"])
def test_a_full_disk_leaves_no_mark(location, monkeypatch, name):
    store = fill(location, (0,))
    out_of_space(monkeypatch, name)
    said = r"disk is full: models 4 to 7.*\(1 of 3\).*run again"
    with pytest.raises(DiskFull, match=said):
        store.write_task(1, rows(1))
    assert store.done_tasks() == {0}
    with pytest.raises(DiskFull):
        store.write_task(0, rows(0))
    monkeypatch.undo()
    assert store.done_tasks() == {0}
    assert store.check() == []
    store.write_task(1, rows(1))
    assert np.array_equal(store.read(8).margins, whole("margins", range(2)))


def test_a_mark_written_in_half_is_removed(location, monkeypatch):
    """As a place would leave it that does not write whole or not at all."""
    store = fill(location, (0,))

    def half(self, selection, values):
        if self.path == "margins":
            put(store, "margins/c/1/0", b"half of it")
            raise OSError(errno.EIO, "input/output error")
        set_item(self, selection, values)

    set_item = zarr.Array.__setitem__
    monkeypatch.setattr(zarr.Array, "__setitem__", half)
    with pytest.raises(OSError, match="input/output"):
        store.write_task(1, rows(1))
    assert store.done_tasks() == {0}


@pytest.fixture
def small_disk(tmp_path):
    """A disk of one megabyte, where this user may mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(place)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_disk_that_fills_up_keeps_what_is_done(small_disk):
    shapes = {**SHAPES, "n_models": 400, "n_test": 2000}
    store = ModelStore.create(small_disk / "m.zarr", IDENTITY, shapes)
    noise = np.random.default_rng(0).normal(size=(4, 2000)).astype(np.float32)

    def write_all():
        for task in range(100):
            store.write_task(task, rows(task) | {"margins": noise})

    with pytest.raises(DiskFull, match="Free some space and run again"):
        write_all()
    task = len(store.done_tasks())
    assert 0 < task < 99
    assert store.done_tasks() == set(range(task))
    assert store.check() == []
    assert list(small_disk.rglob("*.partial")) == []
    assert np.array_equal(store.read_margins(slice(0, 4 * task)), np.tile(noise, (task, 1)))


# Places


def test_what_is_still_being_written_does_not_count(tmp_path):
    store = fill(tmp_path / "m.zarr", (0,))
    for name in ("margins/c/1/0.abc.partial", "accuracy/c/1.abc.partial"):
        (tmp_path / "m.zarr" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "m.zarr" / name).write_bytes(b"half")
    assert store.done_tasks() == store.done_tasks("accuracy") == {0}


def test_sizes_are_of_all_files(location):
    store = fill(location, (0,))
    sizes = store.folder.sizes()
    assert len(sizes) == 1 + 2 * len(ARRAYS)
    assert all(len(store.folder.read(key)) == size for key, size in sizes.items())
    assert store.folder.sizes("nothing") == {}
    assert store.folder.read("nothing") is None


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(ValueError, match=r"s3://bucket/m\.zarr needs.*`pip install s3fs`"):
        ModelStore.open("s3://bucket/m.zarr")
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    with pytest.raises(ValueError, match=r"needs the package fsspec.*mdhelpers\[cluster\]"):
        ModelStore.open("memory://m.zarr")


def test_an_unknown_protocol_is_refused():
    with pytest.raises(ValueError, match=r"protocol not known for models: s4; give a path"):
        open_location("s4://bucket/m.zarr")


def test_a_path_needs_no_fsspec(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "fsspec", None)
    assert isinstance(open_location(tmp_path), LocalFolder)
    assert fill(tmp_path / "m.zarr").done_tasks() == {0, 1, 2}
