"""The wheel, not the checkout: every folder and data file is in it, and what needs them works."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
KINDS = (".py", ".css", ".js", ".json", ".txt")
USE = """
import mdhelpers, sys
assert mdhelpers.__file__.startswith(sys.argv[1]), mdhelpers.__file__
from mdhelpers.clip.small_clip import CONFIG
from mdhelpers.clip.words import WORD_LIST
from mdhelpers.command.cli import app
from mdhelpers.show import views
assert CONFIG.read_text() and len(WORD_LIST.read_text().split()) > 100
assert all(views.esm(name) for name in ("explorer", "play", "recompute")) and views.CSS.read_text()
sys.argv = ["mdhelpers", "--help"]
app()
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder that the wheel was unpacked into, and the wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # a build leaves its own folders in the source
    tracked = ["git", "ls-files", "-z", "mdhelpers", "pyproject.toml", "README.md", "LICENSE"]
    listed = subprocess.run(tracked, cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    subprocess.run([*build, "-w", str(folder), str(source)], check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        file.extractall(folder / "site")
    return folder / "site", source


def test_every_file_of_the_package_is_in_it(installed):
    site, source = installed
    wanted = {p.relative_to(source) for p in (source / "mdhelpers").rglob("*") if p.suffix in KINDS}
    assert wanted - {p.relative_to(site) for p in site.rglob("*")} == set()
    assert len(wanted) > 80
    assert sorted(p.name for p in site.iterdir() if p.suffix != ".dist-info") == ["mdhelpers"]


@pytest.mark.slow
def test_what_needs_data_files_works_from_it(installed, tmp_path):
    site, _ = installed
    done = subprocess.run(
        [sys.executable, "-c", USE, str(site)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "doctor" in done.stdout
