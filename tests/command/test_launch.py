"""What Binder and Colab open: the folder, the links, and what is refused."""

import ast

import nbformat
import pytest

from mdhelpers.base import places
from mdhelpers.base.records import file_digest
from mdhelpers.command import launch
from mdhelpers.command.launch import launch_folder, launch_links
from mdhelpers.runs.run import Run, StudyError

ADDRESS = "https://github.com/someone/book"


@pytest.fixture(autouse=True)
def _committed(monkeypatch):
    monkeypatch.setattr(launch, "git_commit", lambda: "abc1234")


@pytest.fixture
def run(tmp_path) -> Run:
    """A run whose page 7 is finished."""
    run = Run("tiny", runs_dir=tmp_path / "runs")
    stage = run.stage("07_counterfactual_verification", {})
    stage.withdraw()
    (run.path / "effects.txt").write_text("found")
    stage.finish(["effects.txt"], figures={}, seconds=1.0)
    return run


def test_the_folder_has_all_that_both_need(run, tmp_path):
    made = launch_folder(run, tmp_path / "out", repository=f"{ADDRESS}.git/")
    names = {"explore.ipynb", "tiny.zip", "requirements.txt", "runtime.txt", "README.md"}
    assert {path.name for path in made} == names
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    needed = (tmp_path / "out/requirements.txt").read_text()
    assert f"mdhelpers[lab] @ git+{ADDRESS}@abc1234" in needed
    notebook = nbformat.read(tmp_path / "out/explore.ipynb", 4)
    nbformat.validate(notebook)
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    install = [line for line in code[0].splitlines() if line.lstrip().startswith("%")]
    assert install == [f'    %pip install --quiet "mdhelpers @ git+{ADDRESS}@abc1234"']
    ast.parse(code[0].replace(install[0], "    pass"))
    assert f'"{ADDRESS}/raw/launch/tiny.zip"' in code[0]
    assert f'sha256="{file_digest(tmp_path / "out/tiny.zip")}"' in code[0]
    assert f'runs_dir=Path.cwd() / "runs-{file_digest(tmp_path / "out/tiny.zip")[:8]}"' in code[0]
    assert "open_run('tiny', profile='full', runs_dir=runs)" in code[1]


def test_links_lead_to_the_branch(run, tmp_path):
    launch_folder(run, tmp_path / "out", repository=ADDRESS)
    said = (tmp_path / "out/README.md").read_text()
    for link in launch_links(ADDRESS).values():
        assert link in said
    assert launch_links(ADDRESS) == {
        "binder": "https://mybinder.org/v2/gh/someone/book/launch?urlpath=lab/tree/explore.ipynb",
        "colab": "https://colab.research.google.com/github/someone/book/blob/launch/explore.ipynb",
    }


@pytest.mark.parametrize("address", ["", "https://example.org/a/b", "https://github.com/someone"])
def test_other_places_than_github_are_refused(run, tmp_path, address, monkeypatch):
    monkeypatch.setattr(launch, "public_address", lambda: "")
    assert launch_links(address) == {}
    with pytest.raises(StudyError, match="not on GitHub"):
        launch_folder(run, tmp_path / "out", repository=address)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("commit", ["unknown", "abc1234+changes"])
def test_what_nobody_can_install_is_refused(run, tmp_path, commit, monkeypatch):
    monkeypatch.setattr(launch, "git_commit", lambda: commit)
    with pytest.raises(StudyError, match="Commit and push first"):
        launch_folder(run, tmp_path / "out", repository=ADDRESS)


def test_an_unfinished_run_is_refused(tmp_path):
    with pytest.raises(StudyError, match="nothing to explore yet"):
        launch_folder(Run("tiny", runs_dir=tmp_path), tmp_path / "out", repository=ADDRESS)
    assert not (tmp_path / "out").exists()


REMOTES = {
    "git@github.com:someone/book.git": ADDRESS,
    "ssh://git@github.com/someone/book.git": ADDRESS,
    "https://github.com/someone/book": ADDRESS,
    "https://x-access-token:secret@github.com/someone/book.git": ADDRESS,
    "/srv/git/book.git": "",
    "": "",
}


@pytest.mark.parametrize(("remote", "address"), REMOTES.items())
def test_the_public_address_of_a_remote(remote, address, monkeypatch):
    monkeypatch.setattr(places, "_git", lambda *_: remote)
    assert places.public_address() == address
