"""Widgets on built pages, which have no kernel.

The views of `mdhelpers.show` are modules of their own that need no widget manager: their data are
put into the page, and their pictures beside it. Other widgets are shown as they were last.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from mdhelpers.show.views import esm

VIEW = "application/vnd.jupyter.widget-view+json"
STATES = "application/vnd.jupyter.widget-state+json"
SHEETS = "assets/sheets"
PICTURE = "data:image/"
LONG = 20_000  # characters of an array that a page need not have in itself
ARRAY = '(globalThis.mdxArrays ??= {{}})["{key}"] = "{data}";\n'  # see mdhelpers/show/recompute.js


def without_kernel(notebook: dict, *, depth: int) -> dict[str, bytes]:
    """Replace a notebook's widgets, in place, by what a page can show.

    Parameters
    ----------
    notebook : dict
        Format 4, with the widgets' state where some were saved.
    depth : int
        How many folders below the book's the page lies.

    Returns
    -------
    dict of str to bytes
        Pictures and arrays by their path below the book's source folder.
    """
    states = notebook["metadata"].pop("widgets", {}).get(STATES, {}).get("state", {})
    pictures: dict[str, bytes] = {}
    alive: set[str] = set()
    for cell in notebook["cells"]:
        for output in cell.get("outputs", ()):
            shown = output.get("data", {}).pop(VIEW, None)
            if shown is None:
                continue
            state = states.get(shown["model_id"], {}).get("state", {})
            if name := module_of(state):
                body = host(name, with_files(view_of(state), pictures, "../" * depth))
                output["data"]["text/html"] = body + ("" if name in alive else script(name))
                alive.add(name)
            elif still := "".join(still_of(states, shown["model_id"])):
                output["data"]["text/html"] = f'<div class="still-widget">{still}</div>'
    return pictures


def view_in_page(name: str, view: Mapping[str, Any], tree: dict[str, bytes], above: str) -> str:
    """A view as HTML; its pictures go into ``tree``, whose folder is ``above`` the page's."""
    return f"{host(name, with_files(view, tree, above))}\n\n{script(name)}"


def last_view(notebook: Mapping[str, Any], name: str) -> dict[str, Any] | None:
    """What the last view of a module in a notebook shows; None where there is none."""
    states = notebook["metadata"].get("widgets", {}).get(STATES, {}).get("state", {})
    found = None
    for cell in notebook["cells"]:
        for output in cell.get("outputs", ()):
            shown = output.get("data", {}).get(VIEW, {})
            state = states.get(shown.get("model_id"), {}).get("state", {})
            found = view_of(state) if module_of(state) == name else found
    return found


MODULES = {
    f"mdhelpers.show.{name}.{name.title()}": name for name in ("explorer", "play", "recompute")
}


def module_of(state: Mapping[str, Any]) -> str:
    """The module of `mdhelpers.show` that draws a widget; "" of others."""
    return MODULES.get(state.get("_anywidget_id", ""), "")


def view_of(state: Mapping[str, Any]) -> dict[str, Any]:
    """What the view reads of a saved widget's state."""
    of_jupyter = ("layout", "tabbable", "tooltip")
    return {key: v for key, v in state.items() if key[0] != "_" and key not in of_jupyter}


def host(name: str, view: Mapping[str, Any]) -> str:
    """A place for a module's view, and its data where a page's script finds them.

    No sign of HTML stands in the data, so that no text in them can end the script.
    """
    data = json.dumps(view, ensure_ascii=False, separators=(",", ":"))
    for sign in "<>&\u2028\u2029":
        data = data.replace(sign, f"\\u{ord(sign):04x}")
    place = f'<div class="mdx-host mdx-host-{name}"></div>'
    return f'{place}<script type="application/json">{data}</script>'


def script(name: str) -> str:
    """A module, within the page: from a file, a browser loads no module beside it."""
    mount = (files("mdhelpers.show") / "mount.js").read_text(encoding="utf-8")
    source = esm(name).replace("export default {", "const widget = {", 1)
    every = f'document.querySelectorAll(".mdx-host-{name}").forEach((host) => mount(host, widget));'
    return f'<script type="module">{source}\n{mount}\n{every}</script>'


def with_files(value: Any, pictures: dict[str, bytes], above: str) -> Any:
    """The same with the paths of files in the place of pictures and of long arrays.

    The files go into ``pictures``. Arrays are scripts, since a page from disk may read no others.
    """
    if isinstance(value, Mapping) and "bits" in value and len(str(value.get("data"))) > LONG:
        data = base64.b64encode(base64.b64decode(value["data"])).decode()  # and nothing else
        key = hashlib.sha256(data.encode()).hexdigest()[:16]
        pictures[f"{SHEETS}/{key}.js"] = ARRAY.format(key=key, data=data).encode()
        return {"bits": value["bits"], "key": key}
    if isinstance(value, Mapping):
        return {key: with_files(each, pictures, above) for key, each in value.items()}
    if isinstance(value, list):
        return [with_files(each, pictures, above) for each in value]
    if not (isinstance(value, str) and value.startswith(PICTURE)):
        return value
    about, _, data = value.partition(",")
    body = base64.b64decode(data)
    kind = about.removeprefix(PICTURE).split(";")[0]
    name = f"{hashlib.sha256(body).hexdigest()[:16]}.{kind}"
    pictures[f"{SHEETS}/{name}"] = body
    return f"{above}_static/sheets/{name}"


def still_of(states: Mapping[str, Any], number: str) -> list[str]:
    """What a box of ipywidgets last said and showed: its texts and pictures."""
    state = states.get(number, {}).get("state", {})
    kind = state.get("_model_name", "")
    if kind == "HTMLModel":
        return [str(state.get("value", ""))]
    if kind == "ImageModel" and "value" in state:
        data = state["value"] if isinstance(state["value"], str) else ""
        for buffer in states[number].get("buffers", ()):
            data = buffer["data"]
        alternative = "what it showed last"
        return [f'<img alt="{alternative}" src="data:image/png;base64,{html.escape(data)}">']
    children = (str(child).removeprefix("IPY_MODEL_") for child in state.get("children", ()))
    return [part for child in children for part in still_of(states, child)]
