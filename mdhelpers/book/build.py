"""Build the book: prose pages and a run's executed notebooks, through Jupyter Book 1.

A source tree is assembled beside the output and given to Sphinx with warnings as errors. Nothing
is executed and nothing is fetched. Prose quotes a run's ``results.json`` and never a typed number.

Formulas are set by the browser (`mdhelpers.book.mathml`), in a font of the book's own, and widgets
need no script but their own (`mdhelpers.book.widgets`).
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from mdhelpers.base.places import project_root, public_address, resolve, shown
from mdhelpers.base.records import file_digest, unfinished_name
from mdhelpers.book.executed import publishable
from mdhelpers.book.figures import Drawing, drawn, remembered
from mdhelpers.book.lighter import lighten
from mdhelpers.book.pages import expand, expand_figures, look_up, with_header
from mdhelpers.book.reference import api_page, parameter_rows
from mdhelpers.book.widgets import last_view, view_in_page, without_kernel
from mdhelpers.runs.notebooks import find_notebooks, read_entries
from mdhelpers.runs.run import Run, banner, is_run, provenance
from mdhelpers.runs.stage import EFFECTS
from mdhelpers.show.style import escape_markdown
from mdhelpers.show.transformations import kinds_rows
from mdhelpers.stages.study import Study

ALL = (0, 99)
MARK = ".mdhelpers-book"
_CONFIG_COMMAND = "from jupyter_book.cli.main import main; main()"


def build(
    study: str,
    *,
    profile: str = "full",
    runs_dir: str | Path = "runs",
    out: str | Path = "book/_build/html",
    book_dir: str | Path = "book",
    commands: Sequence[Mapping[str, str]] = (),
    links: Mapping[str, str] | None = None,
) -> Path:
    """Build the book of one study's run. Relative paths count from the project's folder.

    Parameters
    ----------
    study, profile : str
        Which run.
    runs_dir : path
        Where the runs lie.
    out : path
        Where the pages go: a new or empty folder, or one that an earlier book made. It changes only
        when the whole book is built. The folder ``<out>-work`` beside it has what is built from.
    book_dir : path
        Prose pages, ``_config.yml``, ``_toc.yml``, ``references.bib``, ``findings/``, ``assets/``.
    commands : sequence of mapping
        ``command``, ``options``, ``what``: the command line, for the page on parameters.
    links : mapping
        ``binder`` and ``colab``: where the run can be opened without installing anything.

    Returns
    -------
    Path
        The page to open, ``out/index.html``.

    Raises
    ------
    FileNotFoundError
        When there is no finished run of that study and profile.
    ValueError
        When a page quotes a figure that the run does not have, a notebook failed or was changed
        since it was executed, or ``out`` holds files that no book made.
    RuntimeError
        When Jupyter Book is not installed, or Sphinx warns.
    """
    if find_spec("jupyter_book") is None:
        raise RuntimeError("Jupyter Book is not installed; run: pip install 'mdhelpers[book]'")
    run, out = Run(study, profile=profile, runs_dir=runs_dir), resolve(out)
    if not is_run(run.folder):
        raise FileNotFoundError(
            f"there is no run of study {study!r}, profile {profile!r}, at {shown(run.folder)}. "
            f"Run: {run.command()}"
        )
    if not is_finished(run):
        raise FileNotFoundError(
            f"{shown(run.folder)} holds no finished run (expected results.json and all executed "
            f"notebooks; missing: {', '.join(_missing(run)) or 'results.json'}). "
            f"Run: {run.command()}"
        )
    work = out.with_name(f"{out.name}-work")
    for folder in (out, work):
        _refuse_others(folder)
    work.mkdir(parents=True, exist_ok=True)
    (work / MARK).touch()
    tree = assemble(run, resolve(book_dir), commands, links, remembered(work / "drawn"))
    if _synchronise(tree, work / "src"):
        shutil.rmtree(work / "html", ignore_errors=True)
    _sphinx(work)
    _publish(work / "html", out, work / "webp")
    return out / "index.html"


def _refuse_others(folder: Path) -> None:
    """ValueError for a folder whose files no book made: they would be removed."""
    ours = folder.is_relative_to(project_root() / "book" / "_build") or (folder / MARK).exists()
    if folder.is_dir() and any(folder.iterdir()) and not ours:
        raise ValueError(
            f"{shown(folder)} holds files that do not bear a book's mark, and a book built there "
            "would remove them. Give another --out, or empty the folder."
        )


def _publish(pages: Path, out: Path, kept: Path) -> None:
    """Put whole new pages in the place of the old ones."""
    new, old = unfinished_name(out), unfinished_name(out)
    try:
        shutil.copytree(pages, new)
        lighten(new, kept)
        (new / MARK).touch()
        if out.exists():
            out.rename(old)
        new.rename(out)
    finally:
        for folder in (new, old):
            shutil.rmtree(folder, ignore_errors=True)


def is_finished(run: Run) -> bool:
    """Whether a run folder has its results and all executed notebooks."""
    return bool(run.results) and not _missing(run)


def _missing(run: Run) -> list[str]:
    """The project's notebooks that the run has no executed copy of."""
    wanted = {notebook.name for notebook in find_notebooks() if not notebook.needs}
    return sorted(wanted - {path.stem for path in _notebooks(run)})


def _pages_of_project() -> list[str]:
    return [notebook.name for notebook in find_notebooks()]


def _notebooks(run: Run, numbers: Sequence[int] = ALL) -> list[Path]:
    """A run's executed notebooks from the first to the last number, in order."""
    names = [n for n in _pages_of_project() if numbers[0] <= int(n[:2]) <= numbers[1]]
    paths = (run.folder / "notebooks" / f"{name}.ipynb" for name in names)
    return [path for path in paths if path.is_file()]


def _refuse_stale(run: Run, pages: Sequence[Path]) -> None:
    """ValueError for a page that is not what the runner left, or shows older results."""
    entries = read_entries(run)
    for path in pages:
        entry = entries.get(path.stem, {})
        problem = ""
        if entry.get("copy") not in (None, file_digest(path)):
            problem = "was changed since it was executed"
        elif entry and run.manifest(path.stem).get("key") != entry["stage_key"]:
            problem = "shows results that were made anew since, or discarded"
        if problem:
            raise ValueError(f"{shown(path)} {problem}. Bring it up to date: {run.command()}")


def assemble(
    run: Run,
    book_dir: Path,
    commands: Sequence[Mapping[str, str]] = (),
    links: Mapping[str, str] | None = None,
    draw: Drawing = drawn,
) -> dict[str, bytes]:
    """Make the book's source tree in memory.

    Parameters
    ----------
    run : Run
        The run that the book is about. Further parts of ``_toc.yml`` that say ``run: name`` are
        taken in where the folder beside it of that name holds a finished run. A part that says
        ``notebooks: [first, last]`` takes those of the run's notebooks alone.
    book_dir, commands, links
        As in `build`.
    draw : callable
        Draws the figures of prose pages.

    Returns
    -------
    dict of str to bytes
        File content by path below the source folder.
    """
    toc = yaml.safe_load((book_dir / "_toc.yml").read_text(encoding="utf-8"))
    tree = {f"assets/{name}": body for name, body in asset_files(book_dir / "assets").items()}
    for name in ("_config.yml", "references.bib"):
        tree[name] = (book_dir / name).read_bytes()
    tree["api.md"] = api_page(Path(__file__).parents[1]).encode()
    for figure in _figures(run):
        tree[f"figures/{figure.name}"] = figure.read_bytes()
    found = (_part(p, run, tree, book_dir) for p in toc["parts"])
    parts = [part for part in found if part]
    tree["_toc.yml"] = yaml.safe_dump({**toc, "parts": parts}, sort_keys=False).encode()
    for page in (toc["root"], *(c["file"] for p in parts for c in p["chapters"])):
        source = book_dir / f"{page}.md"
        if source.is_file() and f"{page}.md" not in tree:
            tree[f"{page}.md"] = _prose(source, run, tree, commands, links, draw).encode()
    return tree


def _figures(run: Run) -> list[Path]:
    """The pictures that a run's pages made; of runs of older versions, all that there are."""
    made = run.outputs(EFFECTS, "figures/*.png")
    return made or sorted((run.folder / "figures").glob("*.png"))


def _part(part: dict, this: Run, tree: dict[str, bytes], book_dir: Path) -> dict | None:
    """Add a run's pages to a part that names one; None where the part is empty then."""
    if "run" not in part:
        return part
    chapters = list(part.get("chapters", ()))
    other = Run(part["run"], runs_dir=this.folder.parent)
    numbers = part.get("notebooks", ALL)
    if part["run"] == "this":
        chapters += _pages(this, "", tree, numbers)
    elif other.folder != this.folder and is_finished(other):
        if EFFECTS in (path.stem for path in _notebooks(other, numbers)):
            chapters.append({"file": _summary(other, part["run"], tree, book_dir)})
        chapters += _pages(other, f"{part['run']}/", tree, numbers)
    return {"caption": part["caption"], "chapters": chapters} if chapters else None


def _summary(run: Run, name: str, tree: dict[str, bytes], book_dir: Path) -> str:
    """Put a page into the tree that tells what another study's run found; return its path."""
    page, source = f"{name}/summary", book_dir / "findings" / "study.md"
    landing = run.folder / "figures" / "landing.png"
    if landing.is_file():
        tree[f"figures/{run.study}-landing.png"] = landing.read_bytes()
    text = source.read_text(encoding="utf-8").replace(EXPLORER, PLACE)
    text = _with_pictures_of(tree, text.replace("{{ results.run.study }}-", f"{run.study}-"))
    text = expand(text, {"results": run.results}, page=source.name)
    text = text.replace(PLACE, _explorer(run, tree, "../"))
    header = _header(run.results, page=source.name)
    tree[f"{page}.md"] = with_header(text, header, page=source.name).encode()
    return page


def _pages(
    run: Run, folder: str, tree: dict[str, bytes], numbers: Sequence[int]
) -> list[dict[str, str]]:
    """Put a run's notebooks into the tree, and return their entries in the contents."""
    header = _header(run.results, page=shown(run.folder))
    about = f"Study {run.study}, 2 × {run.results['run']['n_models']} models."
    _refuse_stale(run, _notebooks(run, numbers))
    for path in _notebooks(run, numbers):
        notebook = publishable(
            json.loads(path.read_text(encoding="utf-8")), header, page=shown(path), about=about
        )
        tree |= without_kernel(notebook, depth=folder.count("/"))
        tree[f"{folder}{path.name}"] = json.dumps(notebook, indent=1).encode()
    return [{"file": f"{folder}{path.stem}"} for path in _notebooks(run, numbers)]


def _prose(
    source: Path,
    run: Run,
    tree: dict[str, bytes],
    commands: Sequence[Mapping[str, str]] = (),
    links: Mapping[str, str] | None = None,
    draw: Drawing = drawn,
) -> str:
    """Expand a prose page. It quotes this run, or the recorded one that bears the page's name.

    Where it quotes one, its header says which. Figures that it draws go into the tree.
    """
    files = (source.parent / "recorded").glob("*.json")
    recorded = {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in files}
    results = recorded.get(source.stem, run.results)
    finding = source.parent / "findings" / f"{run.study}.md"
    if not finding.is_file():
        finding = finding.with_name("default.md")
    said = finding.read_text(encoding="utf-8").strip()
    text = source.read_text(encoding="utf-8").replace("{{ finding }}", said)
    quotes = "results." in "".join(re.findall(r"\{\{.*?\}\}", text))
    values = {"results": results, "recorded": recorded, "kinds": {"rows": kinds_rows()}}
    study = parameter_rows(Study.model_json_schema(), find_notebooks())
    values["reference"] = {"study": study, "commands": commands or HELP}
    values["parameters"] = {
        file.stem: yaml.safe_load(file.read_text(encoding="utf-8"))
        for file in (source.parent.parent / "parameters").glob("paper_*.yaml")
    }
    page = source.name
    text = text.replace("{{ repository }}", repository())
    text = text.replace("{{ launch }}", LAUNCHED.format(**links) if links else "")
    text = _with_pictures_of(tree, text)
    found = partial(look_up, values, page=page)
    text, figures = expand_figures(text, found, page=page, draw=draw)
    tree |= figures
    text = expand(text.replace(EXPLORER, PLACE), values, page=page)
    text = text.replace(PLACE, _explorer(run, tree, ""))
    return with_header(text, _header(results, page=page), page=page) if quotes else text


LAUNCHED = """Without installing anything: this run in [Binder]({binder}) or [Colab]({colab}), with
its explorer and a workbench for hypotheses of your own."""
HELP = [{"command": "mdhelpers --help", "what": "lists all commands", "options": ""}]
# A picture of the run; those of older versions lack some.
_FIGURE_BLOCK = re.compile(
    r"^```\{figure\} (?:\.\./)?(figures/\S+)\n.*?^```\n", re.DOTALL | re.MULTILINE
)


def _with_pictures_of(tree: Mapping[str, bytes], text: str) -> str:
    return _FIGURE_BLOCK.sub(lambda block: block[0] if block[1] in tree else "", text)


EXPLORER, PLACE = "{{ explorer }}", "EXPLORER-STANDS-HERE"


def _explorer(run: Run, tree: dict[str, bytes], above: str) -> str:
    """The view of page 7, which has all that is known; its pictures go into the tree."""
    page = run.folder / "notebooks" / f"{EFFECTS}.ipynb"
    view = last_view(json.loads(page.read_text(encoding="utf-8")), "explorer")
    if not view:
        return ""
    opened = view | ({"tab": "tests"} if view["hypotheses"] else {})
    return view_in_page("explorer", opened, tree, above)


def repository() -> str:
    """Where the code is, as the end of a sentence: of a checkout of a public repository."""
    found = public_address()
    return f": [{found}]({found})." if found else "."


def _header(results: Mapping[str, Any], *, page: str) -> str:
    """What stands under every title: which run made the page, and a banner on small budgets."""
    facts = results["run"]
    missing = [name for name in ("n_models", "seed", "commit", "date") if name not in facts]
    if missing:
        raise ValueError(
            f"{page}, results.json: the block 'run' lacks {', '.join(missing)}, which every page "
            "has to name. Run the study again."
        )
    line = f":::{{div}} provenance\n{escape_markdown(provenance(facts))}\n:::"
    warning = escape_markdown(banner(facts["profile"]))
    return f":::{{warning}}\n{warning}\n:::\n\n{line}" if warning else line


def _synchronise(tree: Mapping[str, bytes], folder: Path) -> bool:
    """Write what changed, so that Sphinx rebuilds only that; True when all pages must be.

    They must where a file had to go, or an asset is another: Sphinx leaves its old copy in place.
    """
    anew = False
    for name, body in tree.items():
        path = folder / name
        if not path.is_file() or path.read_bytes() != body:
            anew |= name.startswith("assets/") and path.is_file()
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(body)
    keep = {folder / name for name in (*tree, "conf.py")}
    stale = [path for path in folder.rglob("*") if path.is_file() and path not in keep]
    for path in stale:
        path.unlink()
    return bool(stale) or anew


def _sphinx(work: Path) -> None:
    """Run Sphinx on Jupyter Book's configuration, every warning an error."""
    source, out, doctrees = work / "src", work / "html", work / "doctrees"
    configure = [sys.executable, "-c", _CONFIG_COMMAND, "config", "sphinx", str(source)]
    sphinx = [sys.executable, "-m", "sphinx", "-b", "html", "-d", str(doctrees)]
    sphinx += ["-W", "--keep-going", "-n", "-q", str(source), str(out)]
    for command in (configure, sphinx):
        options = {
            "encoding": "utf-8",
            "errors": "replace",
            "env": os.environ | {"PYTHONUTF8": "1"},
        }
        done = subprocess.run(command, capture_output=True, check=False, **options)
        if done.returncode:
            shutil.rmtree(doctrees, ignore_errors=True)  # else the next try would not warn again
            log = (done.stdout + done.stderr).strip()
            raise RuntimeError(f"The book was not built; Sphinx says:\n{log}")


PAGE_FILES = ("custom.css", "logo.svg", "page.js", "vendor/stix-two-math.woff2")


def asset_files(assets: Path) -> dict[str, bytes]:
    """Collect what goes into the built book's ``_static`` folder.

    Parameters
    ----------
    assets : Path
        The folder ``book/assets``.

    Returns
    -------
    dict of str to bytes
        File content by path below ``_static``.

    Raises
    ------
    FileNotFoundError
        When one of the files of the book's own is missing.
    """
    contents = {name: (assets / name).read_bytes() for name in PAGE_FILES}
    contents["explorer.css"] = (files("mdhelpers.show") / "explorer.css").read_bytes()
    return contents
