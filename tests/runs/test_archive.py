"""A run packed, sent and unpacked; what is no packed run is refused before anything is written."""

import http.server
import json
import threading
import zipfile
from functools import partial

import pytest

from mdhelpers.base.records import file_digest
from mdhelpers.runs import archive
from mdhelpers.runs.archive import fetched, pack, unpack
from mdhelpers.runs.run import Run, StudyError


@pytest.fixture
def run(tmp_path) -> Run:
    """A run of two stages, the first of which wrote what a packed run comes without."""
    run = Run("tiny", profile="smoke", runs_dir=tmp_path / "runs")
    for name, after in (("03_fit", ()), ("04_compare", ("03_fit",))):
        stage = run.stage(name, {"seed": 0}, after=after)
        stage.withdraw()
        files = ["scores_1.npy", "fits.txt"] if name == "03_fit" else ["found/gaps.txt"]
        for file in files:
            (run.path / file).parent.mkdir(exist_ok=True)
            (run.path / file).write_text(name)
        stage.finish(files, figures={"n": 1}, seconds=1.0)
    (run.folder / ".run.lock").touch()
    return run


def test_a_packed_run_is_read_as_the_run_was(run, tmp_path):
    folder = unpack(pack(run, tmp_path / "tiny.zip"), tmp_path / "theirs")
    assert folder == tmp_path / "theirs/tiny-smoke"
    copy = Run("tiny", profile="smoke", runs_dir=tmp_path / "theirs")
    assert copy.results == run.results
    copy.check("04_compare")
    assert copy.output("04_compare", "found/gaps.txt").read_text() == "04_compare"
    assert sorted(path.name for path in folder.glob(".*")) == []


def test_what_was_left_out_is_told_where_it_is_wanted_and_made_anew_by_a_run(run, tmp_path):
    unpack(pack(run, tmp_path / "tiny.zip"), tmp_path / "theirs")
    copy = Run("tiny", profile="smoke", runs_dir=tmp_path / "theirs")
    assert not (copy.folder / "scores_1.npy").exists()
    with pytest.raises(StudyError, match=r"scores_1\.npy.*missing.*makes it anew"):
        copy.output("03_fit", "scores_1.npy")
    assert copy.damage(copy.manifest("03_fit")) == ["output scores_1.npy is missing"]


def test_other_missing_files_are_damage(run, tmp_path):
    unpack(pack(run, tmp_path / "tiny.zip"), tmp_path / "theirs")
    copy = Run("tiny", profile="smoke", runs_dir=tmp_path / "theirs")
    (copy.folder / "fits.txt").unlink()
    with pytest.raises(StudyError, match=r"03_fit is damaged: output fits\.txt is missing"):
        copy.check("04_compare")


def test_notes_logs_and_files_of_others_stay_behind(run, tmp_path):
    for name in ("explore.ipynb", "notes.txt", "training.jsonl", "found/training.jsonl", "mine/a"):
        (run.folder / name).parent.mkdir(exist_ok=True)
        (run.folder / name).write_text("mine")
    (run.folder / "notebooks").mkdir()
    (run.folder / "notebooks/my notes.ipynb").write_text("mine")
    folder = unpack(pack(run, tmp_path / "tiny.zip"), tmp_path / "theirs")
    sent = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert sent == {
        "run.json", "results.json", "fits.txt", "found/gaps.txt", "stages/03_fit.json",
        "stages/04_compare.json",
    }  # fmt: skip


def test_the_same_run_gives_the_same_file(run, tmp_path):
    first, second = (pack(run, tmp_path / name).read_bytes() for name in ("1.zip", "2.zip"))
    assert first == second


def test_a_run_that_is_there_stays_as_it_is(run, tmp_path):
    packed = pack(run, tmp_path / "tiny.zip")
    (run.folder / "fits.txt").write_text("mine")
    assert unpack(packed, run.folder.parent) == run.folder
    assert (run.folder / "fits.txt").read_text() == "mine"


def test_what_no_run_made_keeps_its_place(run, tmp_path):
    packed = pack(run, tmp_path / "tiny.zip")
    (tmp_path / "theirs/tiny-smoke").mkdir(parents=True)
    (tmp_path / "theirs/tiny-smoke/notes.txt").write_text("mine")
    with pytest.raises(StudyError, match="no run made it"):
        unpack(packed, tmp_path / "theirs")
    assert [path.name for path in (tmp_path / "theirs").rglob("*")] == ["tiny-smoke", "notes.txt"]


LINK = zipfile.ZipInfo("tiny/link")
LINK.external_attr = 0o120777 << 16
OTHERS = {
    "no mark": {"tiny/a.txt": ""},
    "two folders": {"tiny/run.json": "{}", "other/a.txt": ""},
    "no folder": {"run.json": "{}"},
    "out of it": {"tiny/run.json": "{}", "tiny/../../a.txt": ""},
    "from the root": {"/tiny/run.json": "{}"},
    "a link": {"tiny/run.json": "{}", LINK: "/etc/passwd"},
    "a drive": {"tiny/run.json": "{}", "tiny/C:\\a.txt": ""},
    "hidden": {".git/run.json": "{}"},
}


@pytest.mark.parametrize("members", OTHERS.values(), ids=OTHERS)
def test_what_is_no_packed_run_is_refused_before_anything_is_written(members, tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
        for name, content in members.items():
            packed.writestr(name, content)
    with pytest.raises(StudyError, match=r"a\.zip holds"):
        unpack(tmp_path / "a.zip", tmp_path / "theirs")
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]


def test_a_file_that_is_cut_or_too_large_is_refused(run, tmp_path, monkeypatch):
    packed = pack(run, tmp_path / "tiny.zip")
    monkeypatch.setattr(archive, "LARGEST", 10)
    with pytest.raises(StudyError, match="would take"):
        unpack(packed, tmp_path / "theirs")
    packed.write_bytes(packed.read_bytes()[:-40])
    with pytest.raises(StudyError, match="no zip file, or is not whole"):
        unpack(packed, tmp_path / "theirs")
    assert not (tmp_path / "theirs").exists()


@pytest.fixture
def served(run, tmp_path):
    """The packed run at an address of this machine, and its digest."""
    (tmp_path / "served").mkdir()
    packed = pack(run, tmp_path / "served/tiny-smoke.zip")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = partial(Quiet, directory=str(tmp_path / "served"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/tiny-smoke.zip", file_digest(packed)
        server.shutdown()


def test_a_packed_run_is_fetched_once(served, tmp_path, monkeypatch):
    address, digest = served
    (tmp_path / "colab").mkdir()
    monkeypatch.chdir(tmp_path / "colab")
    assert fetched(address, digest, tmp_path / "theirs") == str(tmp_path / "theirs")
    mark = json.loads((tmp_path / "theirs/tiny-smoke/run.json").read_text())
    assert mark["left_out"] == ["scores_1.npy"]
    (tmp_path / "served/tiny-smoke.zip").unlink()
    assert fetched(address, digest, tmp_path / "theirs") == str(tmp_path / "theirs")


def test_another_file_and_no_file_are_told(served, tmp_path, monkeypatch):
    address, digest = served
    (tmp_path / "colab").mkdir()
    monkeypatch.chdir(tmp_path / "colab")
    with pytest.raises(StudyError, match="cannot be fetched: HTTP Error 404"):
        fetched(address.replace("tiny-smoke", "other"), digest)
    with pytest.raises(StudyError, match="not the file that this notebook was made with"):
        fetched(address, "0" * 64, tmp_path / "theirs")
    assert not (tmp_path / "theirs").exists()
