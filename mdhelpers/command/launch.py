"""What Binder and Colab open: a notebook on a finished run, and where both get all else from.

The folder is made to be pushed as a branch of its own, which `.github/workflows/publish.yml` does:
Binder builds what a branch holds, and Colab opens a notebook of one.
"""

from __future__ import annotations

from pathlib import Path

import nbformat

from mdhelpers.base.places import git_commit, public_address
from mdhelpers.base.records import file_digest, written
from mdhelpers.command.explore import NAME, notebook_of
from mdhelpers.runs.archive import pack
from mdhelpers.runs.run import Run, StudyError

BRANCH = "launch"
SET_UP = """\
# Binder has the package and the run. Colab gets both here: some minutes the first time.
import importlib.util
import sys
from pathlib import Path

if importlib.util.find_spec("mdhelpers") is None:
    %pip install --quiet "mdhelpers @ git+{address}@{commit}"
if "google.colab" in sys.modules:
    from google.colab import output

    output.enable_custom_widget_manager()

from mdhelpers.runs.archive import fetched

runs = fetched(
    "{address}/raw/{branch}/{file}",
    sha256="{sha256}",
    runs_dir=Path.cwd() / "runs-{sha256:.8}",
)"""
REQUIREMENTS = """\
# Binder has no GPU and little room: torch as it is for CPUs alone.
--extra-index-url https://download.pytorch.org/whl/cpu
mdhelpers[lab] @ git+{address}@{commit}
"""
README = """\
# {study}, to be opened on Binder or Colab

Made by `mdhelpers launch` at commit {commit} of {address}. Nothing here is written by hand.

- Binder: {binder}
- Colab: {colab}
"""


def launch_folder(run: Run, out: Path, *, repository: str = "") -> list[Path]:
    """Write what Binder and Colab need to open a finished run.

    Parameters
    ----------
    run : Run
        A finished run.
    out : Path
        A folder; files of these names in it are replaced, others stay.
    repository : str
        ``https://github.com/OWNER/NAME`` of the code; by default where this checkout came from.

    Returns
    -------
    list of Path
        The notebook, the packed run, and what Binder builds from.

    Raises
    ------
    StudyError
        If the run is not finished, the repository is not on GitHub, or what is committed there is
        not the code that is here.
    """
    address = repository.rstrip("/").removesuffix(".git") or public_address()
    links = launch_links(address)
    if not links:
        raise StudyError(
            f"{address or 'This checkout'} is not on GitHub, where Binder and Colab look. Give "
            "--repository https://github.com/OWNER/NAME."
        )
    commit = git_commit()
    if commit == "unknown" or "+" in commit:
        raise StudyError("Commit and push first: Binder and Colab install what is committed.")
    notebook_of(run)  # is it finished?
    out.mkdir(parents=True, exist_ok=True)
    packed = pack(run, out / f"{run.folder.name}.zip")
    about = {"address": address, "commit": commit, "branch": BRANCH, "file": packed.name}
    about |= {"sha256": file_digest(packed), "study": run.study, **links}
    texts = {
        "requirements.txt": REQUIREMENTS.format(**about),
        "runtime.txt": "python-3.12\n",
        "README.md": README.format(**about),
        NAME: nbformat.writes(notebook_of(run, SET_UP.format(**about))) + "\n",
    }
    for name, text in texts.items():
        with written(out / name) as unfinished:
            unfinished.write_text(text, encoding="utf-8")
    return [out / NAME, packed, *(out / name for name in texts if name != NAME)]


def launch_links(address: str) -> dict[str, str]:
    """Where Binder and Colab open the launch branch of a GitHub repository; none of others."""
    place = address.removeprefix("https://github.com/")
    if place == address or place.count("/") != 1:
        return {}
    return {
        "binder": f"https://mybinder.org/v2/gh/{place}/{BRANCH}?urlpath=lab/tree/{NAME}",
        "colab": f"https://colab.research.google.com/github/{place}/blob/{BRANCH}/{NAME}",
    }
