from pathlib import Path

import pytest

import mdhelpers
from mdhelpers.base import places as paths

PACKAGE = Path(mdhelpers.__file__).resolve().parent


@pytest.fixture
def project(tmp_path):
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "mdhelpers"\n')
    return tmp_path


@pytest.mark.parametrize("folder", [".", "notebooks"])
def test_root_is_found_from_the_project_and_from_its_notebooks(project, monkeypatch, folder):
    monkeypatch.chdir(project / folder)
    assert paths.project_root() == project
    assert paths.resolve("runs") == project / "runs"


def test_a_project_that_depends_on_mdhelpers_is_a_root(project, monkeypatch):
    text = '[project]\nname = "mine"\ndependencies = ["mdhelpers>=0.1"]\n'
    (project / "pyproject.toml").write_text(text)
    monkeypatch.chdir(project)
    assert paths.project_root() == project


@pytest.mark.parametrize("text", ['[project]\nname = "other"\n', "not [toml"])
def test_other_projects_are_no_root(project, monkeypatch, text):
    (project / "pyproject.toml").write_text(text)
    monkeypatch.chdir(project)
    monkeypatch.setattr(paths, "__file__", str(project / "site-packages/mdhelpers/paths.py"))
    assert paths.checkout() is None
    assert paths.project_root() == project  # nothing better than where the caller stands


def test_outside_any_project_the_package_own_checkout_counts(tmp_path, monkeypatch):
    other = tmp_path / "elsewhere"
    other.mkdir()
    checkout = tmp_path / "checkout"
    (checkout / "notebooks").mkdir(parents=True)
    (checkout / "pyproject.toml").write_text('[project]\nname = "mdhelpers"\n')
    monkeypatch.setattr(paths, "__file__", str(checkout / "mdhelpers" / "paths.py"))
    monkeypatch.chdir(other)
    assert paths.project_root() == checkout


def test_home_and_absolute_paths_are_respected(project, monkeypatch):
    monkeypatch.chdir(project)
    monkeypatch.setenv("HOME", "/elsewhere/reader")
    assert paths.resolve("~/runs") == Path("/elsewhere/reader/runs")
    assert paths.resolve("/data/runs") == Path("/data/runs")


def test_shown_is_short_inside_the_project_only(project, monkeypatch):
    monkeypatch.chdir(project)
    assert paths.shown(project / "runs" / "a") == "runs/a"
    assert paths.shown("/elsewhere/a") == "/elsewhere/a"
