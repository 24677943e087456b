"""The scripts that a built page needs, served from the book itself.

Sphinx and MyST-NB load MathJax, require.js and the widget manager from public CDNs by default, so
that widgets and formulas vanish offline. The files lie gzipped in ``book/assets/vendor``; anywidget
brings its own script in its wheel.
"""

import gzip
from importlib.resources import files
from pathlib import Path

# Where the widget manager looks for its fonts: beside whichever of its modules was defined first.
_FONTS = ("vendor/@jupyter-widgets", "vendor/@jupyter-widgets/html-manager/dist")
PAGE_FILES = ("custom.css", "logo.svg", "widget_paths.js")


def asset_files(assets: Path) -> dict[str, bytes]:
    """Collect what goes into the built book's ``_static`` folder.

    Parameters
    ----------
    assets : Path
        The folder ``book/assets``, with ``vendor/*.js.gz`` in it.

    Returns
    -------
    dict of str to bytes
        File content by path below ``_static``.

    Raises
    ------
    FileNotFoundError
        When one of the files of the book's own, or anywidget's script, is missing.
    """
    contents = {name: (assets / name).read_bytes() for name in PAGE_FILES}
    for packed in sorted((assets / "vendor").glob("*.js.gz")):
        contents[f"vendor/{packed.stem}"] = gzip.decompress(packed.read_bytes())
    for font in (assets / "vendor").glob("*.woff2"):
        contents |= {f"{folder}/{font.name}": font.read_bytes() for folder in _FONTS}
    contents["vendor/anywidget.js"] = (files("anywidget") / "nbextension/index.js").read_bytes()
    return contents
