"""pyproject.toml, requirements.lock, environment.yml and the set-up name the same environment."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
LOCK = [Requirement(line) for line in (ROOT / "requirements.lock").read_text().splitlines() if line]
CONDA = yaml.safe_load((ROOT / "environment.yml").read_text())
PINS = {}
for _locked in LOCK:
    PINS.setdefault(canonicalize_name(_locked.name), []).append(_locked)


def declared():
    return [*PROJECT["dependencies"], *(d for extra in EXTRAS.values() for d in extra)]


def exact_version(requirement):
    (pin,) = requirement.specifier
    assert pin.operator == "==", requirement
    return pin.version


@pytest.mark.parametrize("dependency", declared())
def test_each_dependency_is_locked_to_a_version_that_it_allows(dependency):
    wanted = Requirement(dependency)
    pins = PINS[canonicalize_name(wanted.name)]
    assert all(wanted.specifier.contains(exact_version(pin)) for pin in pins)


def test_the_lock_has_exact_versions_only():
    assert all(exact_version(requirement) for requirement in LOCK)


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_each_python_gets_each_dependency_once(python):
    linux = {"python_version": python, "python_full_version": f"{python}.9"}
    linux |= {"sys_platform": "linux", "platform_machine": "x86_64"}
    linux |= {"implementation_name": "cpython", "extra": ""}
    for dependency in declared():
        pins = PINS[canonicalize_name(Requirement(dependency).name)]
        assert sum(pin.marker is None or pin.marker.evaluate(linux) for pin in pins) == 1


def test_conda_allows_the_same_pythons():
    python = next(d for d in CONDA["dependencies"] if str(d).startswith("python"))
    assert SpecifierSet(python.removeprefix("python")) == SpecifierSet(PROJECT["requires-python"])


def test_conda_installs_this_project_with_the_locked_versions_and_known_extras():
    assert "pip" in CONDA["dependencies"]
    (lines,) = [d["pip"] for d in CONDA["dependencies"] if isinstance(d, dict)]
    assert "--constraint requirements.lock" in lines
    (extras,) = [re.fullmatch(r"--editable \.\[(.+)\]", line) for line in lines if "edit" in line]
    named = set(extras[1].split(","))
    assert {"book", "ffcv"} <= named <= set(EXTRAS)


def test_the_set_up_installs_the_lock():
    makefile, setup = (ROOT / "Makefile").read_text(), (ROOT / "scripts/setup").read_text()
    assert ".venv/.complete: requirements.lock pyproject.toml scripts/setup" in makefile
    assert "install --no-deps --requirement .venv/lock-without-ffcv.txt" in setup
    assert "grep '^ffcv==' requirements.lock" in setup
    for library in ("libopencv-dev", "libturbojpeg0-dev", "pkg-config", "g++"):
        assert library in setup


def test_no_cpu_only_torch_anywhere():
    assert all(
        "+" not in exact_version(pin) for name in ("torch", "torchvision") for pin in PINS[name]
    )
    names = ["Makefile", "scripts/setup", "environment.yml", "pyproject.toml", ".ci/run"]
    for path in [*(ROOT / n for n in names), *(ROOT / ".github/workflows").glob("*.yml")]:
        assert "download.pytorch.org" not in path.read_text(), path
