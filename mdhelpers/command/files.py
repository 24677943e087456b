"""From parameters files and the command line to what each notebook is given, checked.

Nothing here runs a notebook: a wrong key, type or file is refused before work starts.
"""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from mdhelpers.base.places import project_root, shown
from mdhelpers.base.records import plain
from mdhelpers.runs.notebooks import Notebook, _say_once
from mdhelpers.runs.run import StudyError


class _Loader(yaml.SafeLoader):
    """YAML as papermill reads it, dates being texts, with repeated keys refused."""

    yaml_implicit_resolvers = {  # noqa: RUF012
        letter: [rule for rule in rules if rule[0] != "tag:yaml.org,2002:timestamp"]
        for letter, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                line = key_node.start_mark.line + 1
                raise StudyError(f"line {line}: the key {key!r} is given twice. Keep one of them.")
            seen.add(key)
        return super().construct_mapping(node, deep)


def parameters_dir() -> Path:
    """Return the folder of the project's studies and overlays."""
    return project_root() / "parameters"


def known_studies() -> dict[str, str]:
    """Return the project's parameters files by name, each with its first comment line."""
    return {file.stem: _first_comment(file) for file in sorted(parameters_dir().glob("*.yaml"))}


def _first_comment(file: Path) -> str:
    lines = file.read_text(encoding="utf-8").splitlines()
    return next((line.lstrip("# ").strip() for line in lines if line.startswith("#")), "")


def find_parameters(file: str | Path) -> Path:
    """Return the file that the user means: a path, or the name of one in `parameters/`.

    Raises
    ------
    StudyError
        If there is none; names those that there are.
    """
    given = Path(file).expanduser()
    by_name = parameters_dir() / f"{given}.yaml"
    places = [given, project_root() / given, *([] if given.suffix else [by_name])]
    for place in places:
        if place.is_file():
            return place
    known = ", ".join(f"parameters/{name}.yaml" for name in known_studies()) or "none"
    near = difflib.get_close_matches(given.stem, known_studies(), n=1)
    hint = f" Did you mean parameters/{near[0]}.yaml?" if near else ""
    raise StudyError(f"There is no parameters file {file}.{hint} Those of this project: {known}.")


def read_parameters(file: str | Path) -> dict[str, Any]:
    """Return the flat mapping of parameters that a YAML file holds.

    Where it has a key ``base``, the file of that name, beside it or one of the project's, comes
    first: its keys hold where this file does not give them again. The study's name is not taken.

    Raises
    ------
    StudyError
        If the file or its base is missing, is not YAML, repeats a key, is no mapping, or builds on
        itself.
    """
    path, merged, seen = find_parameters(file), {}, []
    while path:
        if path.resolve() in seen:
            raise StudyError(f"{shown(path)} builds on itself. Take out one base.")
        seen.append(path.resolve())
        given = _read_mapping(path)
        base = given.pop("base", None)
        if len(seen) > 1:
            given.pop("study", None)
        merged = given | merged
        path = _base_of(path, base) if base is not None else None
    return merged


def _base_of(path: Path, base: Any) -> Path:
    """The file that another one builds on."""
    if not isinstance(base, str) or not base:
        raise StudyError(f"{shown(path)}: base is {base!r}. Give the name of a parameters file.")
    beside = path.parent / (base if base.endswith((".yaml", ".yml")) else f"{base}.yaml")
    return beside if beside.is_file() else find_parameters(base)


def _read_mapping(path: Path) -> dict[str, Any]:
    try:
        value = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)  # a SafeLoader
    except StudyError as error:
        raise StudyError(f"{shown(path)}, {error}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise StudyError(f"{shown(path)} is not YAML: {error}") from None
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise StudyError(
            f"{shown(path)} holds {type(value).__name__}, not parameters. "
            "Write one `name: value` a line, the names being words."
        )
    return value


def scalar(text: str) -> Any:
    """Return the value that `-p name text` means: papermill's reading, and YAML's `[…]`, `true`."""
    words = {"True": True, "False": False, "None": None}
    if text in words:
        return words[text]
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    if text in ("true", "false", "null") or text[:1] in ("[", "{"):
        try:
            return yaml.load(text, Loader=_Loader)
        except yaml.YAMLError as error:
            raise StudyError(f"{text!r} is not a value in YAML: {error}") from None
    return text


def merge(
    file: str | Path,
    overlays: Iterable[str | Path] = (),
    parameters: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return a study's parameters: later files replace keys of earlier ones, `parameters` all."""
    merged = {"study": find_parameters(file).stem}
    for each in (file, *overlays):
        merged |= read_parameters(each)
    return merged | dict(parameters or {})


def refuse_unknown(given: Iterable[str], known: Iterable[str]) -> None:
    """Raise for keys that neither a notebook nor a study knows, with the nearest known name.

    Raises
    ------
    StudyError
        Names every unknown key.
    """
    known = sorted(set(known))
    unknown = [key for key in given if key not in known]
    if not unknown:
        return
    lines = [_unknown(key, known) for key in unknown]
    raise StudyError("\n".join([*lines, f"Known parameters: {', '.join(known)}."]))


def _mappings_with(key: str) -> list[str]:
    """The parameters that are mappings in which a key may stand."""
    from mdhelpers.stages.study import Study
    from mdhelpers.training.algorithms import NetworkSpec

    fields = {name: field.annotation for name, field in Study.model_fields.items()}
    fields |= {"algorithm_1": NetworkSpec, "algorithm_2": NetworkSpec}
    return [n for n, spec in fields.items() if key in getattr(spec, "model_fields", ())]


def _unknown(key: str, known: Sequence[str]) -> str:
    whole, dot, inner = key.partition(".")
    if dot and whole in known:
        return (
            f"Unknown parameter {key!r}: {whole} is given as a whole. Write it into the study's "
            f"file, or give -p {whole} '{{{inner}: …}}' with all keys that it needs."
        )
    near = difflib.get_close_matches(key, known, n=1)
    hint = f"Did you mean {near[0]!r}?" if near else "Take it out, or see the list below."
    if not near and (places := [place for place in _mappings_with(key) if place in known]):
        hint = f"It is a key within {' and '.join(places)}."
    return f"Unknown parameter {key!r}: no notebook declares it. {hint}"


def read_study(
    merged: Mapping[str, Any], notebooks: Iterable[Notebook], study_class: type
) -> tuple[Any, dict[str, Any]]:
    """Return the validated study and all its parameters, after unknown ones were refused."""
    known = {name for notebook in notebooks for name in notebook.declares}
    refuse_unknown(merged, known | set(study_class.model_fields))
    study, values = complete(merged, study_class)
    changes = _fitting_defaults(study)
    for name, value in changes.items():
        _say_once(f"{name}: {value} in place of {values[name]}, which suits this study better")
    return complete(dict(merged) | changes, study_class) if changes else (study, values)


def _fitting_defaults(study: Any) -> dict[str, Any]:
    from mdhelpers.stages.study import Study

    if not isinstance(study, Study):
        return {}
    from mdhelpers.stages.checks import fitting_defaults

    return fitting_defaults(study)


def complete(merged: Mapping[str, Any], study_class: type) -> tuple[Any, dict[str, Any]]:
    """Return the validated study, and all parameters with its defaults filled in.

    Raises
    ------
    StudyError
        One line for each value that cannot be used, as `algorithm_1.lr: what was expected`.
    """
    from mdhelpers.base.specs import validate

    fields = study_class.model_fields
    try:
        study = validate(study_class, {k: v for k, v in merged.items() if k in fields})
    except ValueError as error:
        raise StudyError(str(error)) from None
    return study, dict(merged) | plain(study.model_dump(mode="json"))
