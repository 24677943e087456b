"""The command `mdhelpers`. Each command imports what it needs, so that `--help` comes at once."""

import getpass
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Annotated

import typer
from typer.core import TyperCommand

from mdhelpers.base.threads import exit_code, stoppable

app = typer.Typer(
    help="Run ModelDiff studies, build their book, and see what this machine can do.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Traceback = Annotated[bool, typer.Option("--traceback", help="Show where an error arose.")]
RunsDir = Annotated[
    str | None,
    typer.Option("--runs-dir", help="Where runs lie (default: runs), relative to the project."),
]
Files = Annotated[
    list[str] | None,
    typer.Option("--parameters_file", "-f", help="A further file whose keys replace others."),
]
Values = Annotated[
    list[str] | None,
    typer.Option("--parameters", "-p", metavar="NAME VALUE", help="One parameter's value."),
]
Profile = Annotated[str, typer.Option("--profile", help="Which of the study's runs: full, smoke.")]


@contextmanager
def _readable_errors(traceback: bool) -> Iterator[None]:
    """Print errors that a user can mend in plain words: 2 for bad input, 1 for a failed run."""
    _print_whatever_the_locale()
    _have_a_user_name()
    try:
        with stoppable():
            yield
    except KeyboardInterrupt as stop:
        said = "stopped. What is finished stays; the same command goes on from there."
        _stop(said, exit_code(stop))
    except BrokenPipeError:  # whoever reads, `head` for one, has seen enough
        with suppress(OSError):  # Python flushes what is left at its end
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(1) from None
    except (ValueError, OSError) as error:
        if traceback:
            raise
        _stop(f"error: {error}", 2)
    except RuntimeError as error:
        if traceback:
            raise
        _stop(f"error: {error}", 1)


def _have_a_user_name() -> None:
    """Make one up where there is none, as in a container run by a number: torch asks for it."""
    try:
        getpass.getuser()
    except (KeyError, OSError, ImportError):
        os.environ["LOGNAME"] = "nobody"


def _print_whatever_the_locale() -> None:
    """Replace what a terminal of another encoding cannot say, as "→" in Latin-1, by "?"."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def _stop(message: str, code: int) -> None:
    print(message, file=sys.stderr)
    raise typer.Exit(code)


class _PapermillOptions(TyperCommand):
    """Reads `-p name value` as papermill does; typer knows no repeated option of two words."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:
        words, joined = iter(args), []
        for word in words:
            joined.append(word)
            if word in ("-p", "--parameters"):
                name = next(words, "")
                joined.append(name if "=" in name else f"{name}={_value(words)}")
        return super().parse_args(ctx, joined)


def _value(words: Iterator[str]) -> str:
    """The word after a name; nothing where an option follows."""
    value = next(words, "")
    return "" if value.startswith("--") else value


@app.command(cls=_PapermillOptions)
def run(
    study: Annotated[str, typer.Argument(help="A parameters file, or the name of a study.")],
    files: Files = None,
    parameters: Values = None,
    force: Annotated[bool, typer.Option("--force", help="Run what is finished too.")] = False,
    start: Annotated[
        str | None, typer.Option("--from", help="Run from this notebook on: 04, or its name.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would run, with what, and the cost.")
    ] = False,
    runs_dir: RunsDir = None,
    traceback: Traceback = False,
) -> None:
    """Run a study's notebooks in order; skip those finished with the same parameters."""
    with _readable_errors(traceback):
        from mdhelpers.command.runner import run_study

        given = _parameters(parameters or [])
        if runs_dir is not None:
            given["runs_dir"] = runs_dir
        run_study(
            study,
            overlays=files or [],
            parameters=given,
            force=force,
            start=start,
            dry_run=dry_run,
        )


def _parameters(pairs: list[str]) -> dict[str, object]:
    from mdhelpers.command.files import scalar

    given = {}
    for pair in pairs:
        name, _, value = pair.partition("=")
        if not name or not value:
            raise ValueError(f"-p takes a name and a value, as in `-p n_models 64`; got {pair!r}.")
        given[name] = scalar(value)
    return given


@app.command(cls=_PapermillOptions)
def parameters(
    study: Annotated[str, typer.Argument(help="A parameters file, or the name of a study.")],
    files: Files = None,
    parameters: Values = None,
    traceback: Traceback = False,
) -> None:
    """Print every parameter of a study, with all defaults, as a file for plain papermill."""
    with _readable_errors(traceback):
        import yaml

        from mdhelpers.command.files import merge, read_study
        from mdhelpers.runs.notebooks import find_notebooks
        from mdhelpers.stages.study import Study

        merged = merge(study, files or [], _parameters(parameters or []))
        _, values = read_study(merged, find_notebooks(), Study)
        print(yaml.safe_dump(values, sort_keys=False, allow_unicode=True), end="")


@app.command()
def studies() -> None:
    """List this project's studies and overlays."""
    with _readable_errors(traceback=False):
        from mdhelpers.command.files import known_studies, parameters_dir

        found = known_studies()
        if not found:
            raise ValueError(f"{parameters_dir()} holds no parameters files.")
        width = max(map(len, found))
        for name, about in found.items():
            print(f"{name:<{width}}  {about}".rstrip())


@app.command()
def results(
    study: Annotated[str, typer.Argument(help="The study's name.")],
    profile: Profile = "full",
    runs_dir: RunsDir = None,
    traceback: Traceback = False,
) -> None:
    """Print the figures of a run: its results.json."""
    with _readable_errors(traceback):
        import json

        from mdhelpers.runs.run import Run

        found = Run(study, profile=profile, runs_dir=runs_dir or "runs")
        if not found.results:
            raise ValueError(f"{found.folder} holds no results. Run: {found.command()}")
        print(json.dumps(found.results, indent=2, ensure_ascii=False))


@app.command()
def status(
    study: Annotated[str, typer.Argument(help="The study's name, or a run's folder.")],
    profile: Profile = "full",
    runs_dir: RunsDir = None,
    watch: Annotated[
        float | None,
        typer.Option("--watch", min=0.1, metavar="SECONDS", help="Print it again so often."),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Read every model's chunks and name damaged ones.")
    ] = False,
    mend: Annotated[
        bool, typer.Option("--mend", help="Check, and have damaged models trained again.")
    ] = False,
    traceback: Traceback = False,
) -> None:
    """Say how far a run's training is: done, failed, rate, time left. Only --mend writes."""
    with _readable_errors(traceback):
        from mdhelpers.command import status as training

        folder = _run_folder(study, profile, runs_dir)
        if check or mend:
            _check(folder, mend=mend)
        elif watch is not None:
            training.watch(folder, watch)
        else:
            print(training.status_text(training.status(folder)))


def _run_folder(study: str, profile: str, runs_dir: str | None):
    from mdhelpers.base.places import resolve
    from mdhelpers.runs.run import Run

    if "/" in study or "\\" in study:
        return resolve(study)
    return Run(study, profile=profile, runs_dir=runs_dir or "runs").folder


def _check(folder, *, mend: bool) -> None:
    from mdhelpers.command import status as mending

    checked = mending.check_run(folder)
    print(mending.check_text(checked))
    if not any(bad for _, bad in checked):
        return
    if not mend:
        _stop("Add --mend, then run again: exactly these tasks are trained anew.", 1)
    models = mending.mend(folder, checked)
    print(f"{models} models are forgotten. Run again: exactly these are trained anew.")


@app.command()
def planner(
    study: Annotated[str, typer.Argument(help="The study's name, or a run's folder.")],
    lds: Annotated[
        float | None, typer.Option("--lds", help="The LDS that datamodels should have.")
    ] = None,
    cosine: Annotated[
        float | None,
        typer.Option("--cosine", help="The cosine that fits on disjoint models should have."),
    ] = None,
    profile: Profile = "full",
    runs_dir: RunsDir = None,
    traceback: Traceback = False,
) -> None:
    """Say how many more models a wanted quality takes, and how long, from a finished run."""
    with _readable_errors(traceback):
        import textwrap

        from mdhelpers.command.estimates import plan
        from mdhelpers.runs.run import run_at

        for sentence in plan(run_at(_run_folder(study, profile, runs_dir)), lds=lds, cosine=cosine):
            print(textwrap.fill(sentence, 80))


@app.command(cls=_PapermillOptions)
def power(
    study: Annotated[str, typer.Argument(help="A parameters file, or the name of a study.")],
    strengths: Annotated[
        list[float] | None,
        typer.Option("--strength", help="An intensity of what is spiked in; may be repeated."),
    ] = None,
    models: Annotated[
        list[int] | None,
        typer.Option("--models", help="Models of each algorithm; may be repeated."),
    ] = None,
    drawings: Annotated[
        int, typer.Option("--drawings", min=1, help="How often carriers and seeds are drawn.")
    ] = 3,
    files: Files = None,
    parameters: Values = None,
    out: Annotated[str | None, typer.Option("--out", help="Write every figure here.")] = None,
    runs_dir: Annotated[
        str | None, typer.Option("--runs-dir", help="Where its runs lie (default: runs/power).")
    ] = None,
    traceback: Traceback = False,
) -> None:
    """Say what a study would find: its dataset.spike_in, by strength and number of models."""
    with _readable_errors(traceback):
        from mdhelpers.base.places import resolve, shown
        from mdhelpers.command.power import measure

        about = {"strengths": strengths or [], "budgets": models or [], "drawings": drawings}
        folder = resolve(runs_dir or "runs/power")
        given = study, files or [], _parameters(parameters or [])
        table, path = measure(*given, folder=folder, out=out and resolve(out), **about)
        print(table.round(2).to_string(index=False))
        print(f"Each drawing stands in {shown(path)}")


@app.command()
def export(
    study: Annotated[str, typer.Argument(help="The study's name, or a run's folder.")],
    out: Annotated[str, typer.Option("--out", help="The folder to write to.")],
    kinds: Annotated[
        list[str] | None,
        typer.Option("--kind", help="pt, npy or release; may be repeated (default: all three)."),
    ] = None,
    profile: Profile = "full",
    runs_dir: RunsDir = None,
    traceback: Traceback = False,
) -> None:
    """Write a run's datamodels, masks and margins in the formats of other tools."""
    with _readable_errors(traceback):
        from mdhelpers.base.places import resolve, shown
        from mdhelpers.command.export import KINDS, export_run
        from mdhelpers.runs.run import run_at

        run = run_at(_run_folder(study, profile, runs_dir))
        for path in export_run(run, resolve(out), kinds=kinds or KINDS):
            print(shown(path))


@app.command()
def book(
    study: Annotated[str, typer.Argument(help="The study's name.")] = "augmentation",
    profile: Profile = "full",
    runs_dir: RunsDir = None,
    out: Annotated[
        str | None, typer.Option("--out", help="Where the pages go (default: book/_build/html).")
    ] = None,
    launch: Annotated[
        bool, typer.Option("--launch", help="Link to what `mdhelpers launch` made, once published.")
    ] = False,
    traceback: Traceback = False,
) -> None:
    """Build the book from a finished run, without executing anything."""
    with _readable_errors(traceback):
        from mdhelpers.base.places import public_address, resolve
        from mdhelpers.book.build import build
        from mdhelpers.command.launch import launch_links
        from mdhelpers.command.reference import command_rows

        print("Building the pages, some seconds …", file=sys.stderr, flush=True)
        page = build(
            study,
            profile=profile,
            runs_dir=resolve(runs_dir or "runs"),
            out=resolve(out or "book/_build/html"),
            commands=command_rows(app),
            links=launch_links(public_address()) if launch else None,
        )
        print(f"The book is built. Open {page}")


@app.command()
def explore(
    study: Annotated[str, typer.Argument(help="The study's name.")] = "augmentation",
    profile: Profile = "full",
    runs_dir: RunsDir = None,
    browser: Annotated[
        bool, typer.Option("--browser/--no-browser", help="Open it, or only print its address.")
    ] = True,
    port: Annotated[int | None, typer.Option("--port", help="Where JupyterLab listens.")] = None,
    traceback: Traceback = False,
) -> None:
    """Open a finished run in JupyterLab: explorer, workbench for hypotheses, recomputing."""
    with _readable_errors(traceback):
        from mdhelpers.base.places import resolve
        from mdhelpers.command.explore import open_lab, ready_notebook
        from mdhelpers.runs.run import Run

        run = Run(study, profile=profile, runs_dir=resolve(runs_dir or "runs"))
        options = [] if browser else ["--no-browser"]
        options += [f"--port={port}"] if port else []
        code = open_lab(ready_notebook(run), options)
    raise typer.Exit(code)


@app.command()
def launch(
    study: Annotated[str, typer.Argument(help="The study's name.")] = "augmentation",
    profile: Profile = "full",
    runs_dir: RunsDir = None,
    out: Annotated[str, typer.Option("--out", help="Where the files go.")] = "launch",
    repository: Annotated[
        str, typer.Option("--repository", help="https://github.com/OWNER/NAME of the code.")
    ] = "",
    traceback: Traceback = False,
) -> None:
    """Write what Binder and Colab open: a finished run and a notebook, to be pushed as a branch."""
    with _readable_errors(traceback):
        from mdhelpers.base.places import in_words, resolve, shown
        from mdhelpers.command.launch import launch_folder
        from mdhelpers.runs.run import Run

        run = Run(study, profile=profile, runs_dir=resolve(runs_dir or "runs"))
        for path in launch_folder(run, resolve(out), repository=repository):
            print(f"{shown(path)}  {in_words(path.stat().st_size)}")


@app.command()
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    traceback: Traceback = False,
) -> None:
    """Say what this machine has, and what that allows; asks no network."""
    with _readable_errors(traceback):
        import json

        from mdhelpers.command.doctor import examine, report

        print("Looking, and timing a few batches …", file=sys.stderr, flush=True)
        found = examine()
        print(json.dumps(found, indent=2, ensure_ascii=False) if as_json else report(found))


if __name__ == "__main__":
    app()
