"""Nothing that a run did not make is removed, and nothing is read that is not what was written.

On a small run with trained models: copies, links, plans of strangers, models under a URL, damage to
every file, changed pictures, functions and files.
"""

import json
import shutil
import uuid
from pathlib import Path

import fsspec
import numpy as np
import pytest
from PIL import Image

from mdhelpers.base.specs import validate
from mdhelpers.clip.words import CaptionSpec
from mdhelpers.command.status import check_run, mend, status
from mdhelpers.runs.run import Run, StudyError, store_locations
from mdhelpers.stages import data, datamodels, models, outside
from mdhelpers.training.algorithms import parse_algorithm
from mdhelpers.training.store import ModelStore
from tests.stages.test_models import MODELS as FEW

DATA = {"kind": "scenes", "size": 16, "n_train": 24, "n_test": 12}
MODELS = FEW | {"n_models": 16, "n_kept": 8}


def make(folder: Path, **changes) -> Run:
    return again(Run("s", runs_dir=folder), **changes)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """The `runs` folder of a run with models and datamodels; not to be changed."""
    return make(tmp_path_factory.mktemp("made") / "runs").folder.parent


@pytest.fixture
def run(made, tmp_path) -> Run:
    """A copy of the run, to be harmed."""
    shutil.copytree(made, tmp_path / "runs")
    return Run("s", runs_dir=tmp_path / "runs")


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


# Removal


def test_discarding_the_models_of_a_copy_leaves_the_original(made, run):
    before = contents(made)
    models.discard(run)
    assert not list(run.folder.glob("models_*"))
    assert not list(run.folder.glob("checkpoints_*"))
    assert contents(made) == before


@pytest.mark.parametrize("key", ["stores", "models_url"])
def test_a_plan_that_names_other_folders_has_nothing_of_theirs_removed(run, tmp_path, key):
    theirs = tmp_path / "theirs"
    shutil.copytree(run.folder / "models_1.zarr", theirs / "models_1.zarr")
    plan = json.loads((run.folder / "plan.json").read_text())
    plan[key] = [str(theirs / "models_1.zarr")] * 2 if key == "stores" else str(theirs)
    (run.folder / "plan.json").write_text(json.dumps(plan))
    before = contents(theirs)
    if key == "stores":
        models.discard(run)
    else:
        with pytest.raises(StudyError, match="was not made by this run"):
            models.discard(run)
    assert contents(theirs) == before


def test_links_that_lead_out_of_the_run_are_not_followed(run, tmp_path):
    shutil.move(run.folder / "checkpoints_1", tmp_path / "elsewhere")
    (run.folder / "checkpoints_1").symlink_to(tmp_path / "elsewhere")
    before = contents(tmp_path)
    with pytest.raises(StudyError, match="is a link that leads out of the run"):
        models.discard(run)
    assert contents(tmp_path) == before


def test_models_under_a_url_are_removed_by_the_run_that_made_them_alone(tmp_path):
    url = f"memory://{uuid.uuid4().hex}"  # of this process alone: so the models are given
    rng = np.random.default_rng(0)
    np.save(tmp_path / "masks.npy", rng.random((25, 24)) < 0.5)
    np.save(tmp_path / "margins.npy", rng.normal(size=(25, 12)).astype(np.float32))
    files = {name: str(tmp_path / f"{name}.npy") for name in ("masks", "margins")}
    run = make(tmp_path / "runs", models_url=url, models_1_given=files, models_2_given=files)
    shutil.copytree(tmp_path / "runs", tmp_path / "copied")
    copy = Run("s", runs_dir=tmp_path / "copied")
    assert models.read_models(copy).all(1).margins.shape == (24, 12)
    with pytest.raises(StudyError, match="was not made by this run, or this run was copied"):
        models.discard(copy)
    assert models.read_models(run).all(1).margins.shape == (24, 12)
    models.discard(run)
    assert not fsspec.filesystem("memory").exists(f"{url}/models_1.zarr")


def test_no_absolute_path_is_in_a_run(made):
    for name, content in contents(made).items():
        assert str(made).encode() not in content, name


# Damage


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def swap(path: Path) -> None:
    """Give the file what another of its kind has, which is whole in itself."""
    near = path.parent.parent if path.name == "0" else path.parent
    others = (p for p in sorted(near.rglob(f"*{path.suffix}")) if p.is_file())
    other = next(p for p in others if p.read_bytes() != path.read_bytes())
    shutil.copy(other, path)


HARMS = {"cut": cut, "emptied": lambda p: p.write_bytes(b""), "flipped": flip, "swapped": swap}
HARMS["lost"] = Path.unlink
FILES = [
    "data/train_images.npy",
    "data/test_metadata.parquet",
    "models_1.zarr/margins/c/3/0",
    "models_2.zarr/masks/c/0/0",
    "checkpoints_1/00000.safetensors",
    "datamodels_2.safetensors",
]


def again(run: Run, **changes) -> Run:
    data.prepare_data(run, DATA)
    models.train_models(run, **MODELS | changes, workers=1)
    datamodels.fit_datamodels(run, method="ridge")
    return run


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("harm", HARMS)
def test_damage_is_named_and_the_same_commands_make_it_whole(run, made, name, harm):
    HARMS[harm](run.folder / name)
    damaged = [d for manifest in run.manifests() for d in run.damage(manifest)]
    assert len(damaged) == 1
    assert name.partition("/c/")[0].removesuffix("/margins").removesuffix("/masks") in damaged[0]
    again(run)
    assert [d for manifest in run.manifests() for d in run.damage(manifest)] == []
    for wanted, content in contents(made / "s").items():
        if wanted.endswith((".npy", ".safetensors")) or "/margins/c/" in wanted:
            assert (run.folder / wanted).read_bytes() == content, wanted


def test_only_the_damaged_stage_is_made_anew(run, capsys):
    flip(run.folder / "datamodels_1.safetensors")
    capsys.readouterr()
    again(run)
    said = capsys.readouterr().out
    assert "01_data_prep: finished before" in said
    assert "02_mask_training: finished before" in said
    assert "03_datamodel_fitting: running (output datamodels_1.safetensors was changed)" in said


@pytest.mark.parametrize("reader", [data.read_data, datamodels.read_datamodels, models.read_models])
def test_readers_refuse_what_is_not_what_was_written(run, reader):
    reader(run)
    flip(run.folder / ("datamodels_1.safetensors" if "models" in reader.__name__ else FILES[0]))
    if reader is models.read_models:
        flip(run.folder / FILES[0])
    with pytest.raises(StudyError, match=r"was changed\. `mdhelpers run"):
        reader(run)


@pytest.mark.parametrize("name", ["data/train_images.npy", "data/dataset.json", FILES[1]])
@pytest.mark.parametrize("harm", ["cut", "emptied"])
def test_a_damaged_run_of_an_older_version_is_named(run, name, harm):
    """Its manifests hold names and no digests."""
    path = run.folder / "stages" / "01_data_prep.json"
    manifest = json.loads(path.read_text())
    for key in ("sha256", "figures", "run"):
        del manifest[key]
    path.write_text(json.dumps(manifest | {"outputs": list(manifest["outputs"])}))
    data.read_data(run)
    HARMS[harm](run.folder / name)
    with pytest.raises(StudyError, match=r"what 01_data_prep wrote into .* cannot be read"):
        data.read_data(run)


def test_a_lost_task_is_found_by_a_check_and_trained_again(run, made):
    (run.folder / "models_1.zarr/margins/c/2/0").unlink()
    assert not status(run.folder).finished
    ((_, bad), (_, none)) = check_run(run.folder)
    assert [task for _, task in bad] == [2]
    assert none == []
    assert mend(run.folder, [(ModelStore.open(run.folder / "models_1.zarr"), bad)]) == 4
    again(run)
    wanted = models.read_models(Run("s", runs_dir=made)).all(1).margins
    assert np.array_equal(models.read_models(run).all(1).margins, wanted)


def test_a_whole_chunk_of_other_models_is_found_by_a_check(run):
    one, other = (run.folder / f"models_1.zarr/margins/c/{task}/0" for task in (1, 2))
    shutil.copy(one, other)
    ((_, bad), _) = check_run(run.folder)
    assert [task for _, task in bad] == [2]


# Moved


@pytest.mark.usefixtures("run")
def test_a_moved_run_is_whole(tmp_path, capsys):
    shutil.move(tmp_path / "runs", tmp_path / "else where")
    moved = Run("s", runs_dir=tmp_path / "else where")
    capsys.readouterr()
    again(moved)
    assert capsys.readouterr().out.count("finished before") == 3
    assert status(moved.folder).finished
    assert [bad for _, bad in check_run(moved.folder)] == [[], []]
    assert all(Path(at).is_relative_to(moved.folder) for at in store_locations(moved.folder))


# Changed inputs


def picture(path: Path, grey: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(grey).integers(0, 256, (16, 16, 3), np.uint8)
    Image.fromarray(noise).save(path)


def test_a_changed_picture_makes_its_stage_stale_and_a_copy_does_not(tmp_path, capsys):
    for part in ("train", "test"):
        for name in ("cat", "dog"):
            for i in range(3):
                picture(tmp_path / "pets" / part / name / f"{i}.png", i)
    spec = {"kind": "image_folder", "root": str(tmp_path / "pets"), "size": 16}
    run = Run("pets", runs_dir=tmp_path / "runs")
    first = data.prepare_data(run, spec).fingerprint
    shutil.copytree(tmp_path / "pets", tmp_path / "copy")
    shutil.rmtree(tmp_path / "pets")
    shutil.copytree(tmp_path / "copy", tmp_path / "pets")  # other times, the same pictures
    capsys.readouterr()
    assert data.prepare_data(run, spec).fingerprint == first
    assert "finished before" in capsys.readouterr().out
    picture(tmp_path / "pets/train/cat/1.png", 9)
    assert data.prepare_data(run, spec).fingerprint != first
    assert "running (pictures changed" in capsys.readouterr().out


def test_what_an_algorithm_reads_is_among_its_stages_parameters(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights.safetensors").write_bytes(b"1")
    start = {"kind": "checkpoint", "path": str(tmp_path / "weights.safetensors")}
    network = parse_algorithm({"name": "a", "initialisation": start})
    before = outside.algorithms_from_outside(network, network)
    assert outside.algorithms_from_outside(network, network) == before
    (tmp_path / "weights.safetensors").write_bytes(b"2")
    assert outside.algorithms_from_outside(network, network) != before
    plain = parse_algorithm({"name": "a"})
    assert outside.algorithms_from_outside(plain, plain) == {}


@pytest.mark.parametrize("key", ["bank", "pretrained"])
def test_what_captions_read_is_among_their_stages_parameters(tmp_path, key):
    file = tmp_path / "file.pt"
    file.write_text("a cat\na dog\n")
    spec = validate(CaptionSpec, {"model": "ViT-B-32", key: str(file)})
    before = outside.captions_from_outside(spec)
    file.write_text("a cat\na fox\n")
    assert outside.captions_from_outside(spec) != before
    file.unlink()
    with pytest.raises(FileNotFoundError, match=f"captions.{key}: there is no file"):
        outside.captions_from_outside(spec)
