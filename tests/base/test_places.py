import platform
import subprocess
import sys

import pytest

from mdhelpers.base import places as machine


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.42, "0.4 s"), (41.2, "41 s"), (59.7, "1 min"), (200, "3 min 20 s"), (7500, "2 h 5 min")],
)
def test_duration(seconds, words):
    assert machine.duration(seconds) == words


@pytest.mark.parametrize(("size", "words"), [(12, "12 bytes"), (2500, "2.5 kB"), (3.2e9, "3.2 GB")])
def test_in_words(size, words):
    assert machine.in_words(size) == words


def test_versions_name_this_python_and_only_what_is_installed():
    found = machine.versions()
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert found["mdhelpers"]
    assert machine.package_version("no-such-package") is None


def test_machine_has_cores_and_memory():
    found = machine.machine()
    assert found["cores"] >= 1
    assert found["memory"] > 0


def test_folder_and_free_bytes(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").write_bytes(b"12345")
    assert machine.folder_bytes(tmp_path) == 5
    assert machine.folder_bytes(tmp_path / "none") == 0
    assert machine.free_bytes(tmp_path / "not" / "yet") > 0


def test_commit_says_when_files_differ(tmp_path, monkeypatch):
    def git(*words):
        who = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", "-C", str(tmp_path), *who, *words], check=True, capture_output=True)

    monkeypatch.setattr(machine, "checkout", lambda: tmp_path)
    assert machine.git_commit() == "unknown"
    git("init")
    file = tmp_path / "file"
    file.write_text("one")
    git("add", "file")
    git("commit", "-m", "one")
    clean = machine.git_commit()
    assert len(clean) >= 7
    file.write_text("two")
    assert machine.git_commit() == f"{clean}+changes"
    monkeypatch.setattr(machine, "checkout", lambda: None)
    assert machine.git_commit() == "unknown"


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
