"""The scripts of the views: what they share, and each one's own."""

from __future__ import annotations

from pathlib import Path

_HERE = Path(__file__).parent
CSS = _HERE / "explorer.css"


def esm(name: str) -> str:
    """The ES module of a view, for Jupyter and for pages: `view.js` and the view's own script."""
    return "\n".join((_HERE / f"{part}.js").read_text(encoding="utf-8") for part in ("view", name))
