"""Open every page of a built book from disk in headless Chromium, and list what is wrong.

Run by hand on a real book: ``python tests/browser.py book/_build/html``, perhaps with ``--http``,
``--dark`` and ``--width 1920``.
"""

import argparse
import os
import shutil
import sys
from collections.abc import Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote, urlsplit

WIDTHS = (1280, 400)
SHORTEST = 12  # characters of a picture's description
_LOCAL = ("file:", "blob:", "data:", "http://127.0.0.1:")
_PICTURES = """() => [...document.querySelectorAll("article img")]
    .filter(e => e.getClientRects().length > 0)
    .map(e => [e, e.getBoundingClientRect()])
    .map(([e, box]) => (
        {src: e.src.slice(-60), alt: e.alt, width: box.width,
         right: e.closest("figure") ? 0 : box.right,
         caption: e.closest("figure")?.querySelector("figcaption")?.innerText ?? "",
         inches: Number([...e.classList].find(c => c.startsWith("inches-"))?.slice(7) ?? 0)}))"""
_IN_SHAPE = """() => [...document.querySelectorAll("article img")].every(e => {
    const shape = e.height / e.width * e.naturalWidth / e.naturalHeight;  // without a rim
    return !e.width || Math.abs(shape - 1) < .03
})"""
_TOP = """() => [...document.querySelectorAll("article img, .mdx-host")]
    .filter(e => e.getClientRects().length > 0)
    .map(e => e.getBoundingClientRect().top + scrollY
        - (document.querySelector("article .admonition.warning")?.offsetHeight ?? 0))[0] ?? 0"""
FIRST_SCREEN = 1000  # pixels from a page's top to its first figure, the smoke run's banner apart
HEAVIEST = 3e6  # bytes of a page and all that it loads
PER_INCH = 72  # pixels an inch of a figure: letters of 9 points are 9 pixels high
_LOAD_ALL = "() => document.querySelectorAll('article img').forEach(e => e.loading = 'eager')"
_WIDGETS = """() => [...document.querySelectorAll(".mdx-host")].every(
    e => e.querySelector(".mdx-picture") !== null)"""
_LOADED = """() => [...document.querySelectorAll("article img")].every(
    e => e.complete && e.naturalWidth > 0 || e.getClientRects().length === 0)"""
_MATHS = """() => [...document.querySelectorAll("article .math")].every(
    e => e.querySelector("math")?.getBoundingClientRect().width > 3)"""


def chromium_path() -> str | None:
    """Return the first Chromium on the PATH."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return next(filter(None, map(shutil.which, names)), None)


@contextmanager
def offline_page(width: int, faults: list[str], *, dark: bool = False):
    """Yield a page that notes requests to the outside, failed loads and errors in ``faults``."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        args = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=chromium_path(), args=args)
        page = browser.new_page(viewport={"width": width, "height": 900})
        if dark:
            page.add_init_script("localStorage.mode = localStorage.theme = 'dark'")
        page.route(lambda url: not url.startswith(_LOCAL), lambda route: route.abort())
        page.on("request", lambda r: _note_outside(r.url, faults))
        page.on("requestfailed", lambda r: faults.append(f"not loaded: {r.url}"))
        page.on("pageerror", lambda error: faults.append(f"error: {error}"))
        page.on("console", lambda m: _note_console(m, faults))
        yield page
        browser.close()


def _note_outside(url: str, faults: list[str]) -> None:
    if not url.startswith(_LOCAL):
        faults.append(f"outside request: {url}")


def _note_console(message, faults: list[str]) -> None:
    if message.type == "error":
        faults.append(f"console: {message.text}")


def _settles(page, condition: str) -> bool:
    from playwright.sync_api import TimeoutError as PlaywrightTimeoutError

    try:
        page.wait_for_function(condition, timeout=45_000)
    except PlaywrightTimeoutError:
        return False
    return True


def page_faults(page, path: Path, width: int, address: str = "") -> list[str]:
    """Open one page, from disk or at an address, and say what a reader would miss on it."""
    asked: set[str] = set()
    page.on("request", note := lambda request: asked.add(request.url))
    page.goto(address or path.as_uri())
    page.wait_for_load_state("load")
    page.evaluate(_LOAD_ALL)
    found = [] if _settles(page, _WIDGETS) else ["a widget did not appear"]
    if not _settles(page, _LOADED):
        found.append("a picture did not load")
    if not _settles(page, _IN_SHAPE):
        found.append("a picture is out of shape")
    for picture in page.evaluate(_PICTURES):
        if picture["width"] < 24 or picture["right"] > width + 1:
            found.append(f"picture too small or cut off: {picture}")
        if len(picture["alt"]) < SHORTEST or picture["alt"].endswith((".png", ".svg")):
            found.append(f"picture without a description: {picture}")
        if picture["inches"] and len(picture["caption"]) < SHORTEST:
            found.append(f"figure without a caption: {picture}")
        if picture["inches"] and picture["width"] < PER_INCH * picture["inches"]:
            found.append(f"text too small in: {picture}")
    if width > 1000 and path.name[:2].isdigit() and (top := page.evaluate(_TOP)) > FIRST_SCREEN:
        found.append(f"the first figure is at {top:.0f} px")
    page.remove_listener("request", note)
    if (loaded := weight(asked)) > HEAVIEST:
        found.append(f"the page loads {loaded / 1e6:.1f} MB")
    if not page.evaluate(_MATHS):
        found.append("a formula was not set")
    if page.evaluate("() => document.documentElement.scrollWidth") > width + 1:
        found.append("the page scrolls sideways")
    return found


def weight(asked: set[str]) -> int:
    """Bytes of the files that a page from disk consists of; of one from a server, 0."""
    files = {Path(unquote(urlsplit(url).path)) for url in asked if url.startswith("file:")}
    return sum(file.stat().st_size for file in files if file.is_file())


def barriers(page) -> list[str]:
    """What axe-core calls serious or critical on the page that is open."""
    from axe_playwright_python.sync_playwright import Axe

    how = {"resultTypes": ["violations"], "preload": False}
    found = Axe().run(page, options=how).response["violations"]
    return [
        f"{each['impact']} barrier, {each['id']}, {len(each['nodes'])} times: "
        f"{each['nodes'][0]['html'][:120]}"
        for each in found
        if each["impact"] in ("serious", "critical")
    ]


def pages_of(html: Path) -> list[Path]:
    """Return all pages of a built book."""
    return [p for p in sorted(html.rglob("*.html")) if not p.is_relative_to(html / "_static")]


@contextmanager
def served(html: Path):
    """Yield the address of a server of a folder, on this machine alone."""
    quiet = type("Quiet", (SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(quiet, directory=str(html))) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def book_faults(
    html: Path,
    pages: list[Path],
    *,
    widths: Sequence[int] = WIDTHS,
    dark: bool = False,
    address: str = "",
) -> list[str]:
    """Visit pages at each width, with axe at the largest; each fault names page and width."""
    faults: list[str] = []
    for width in widths:
        seen: list[str] = []
        with offline_page(width, seen, dark=dark) as page:
            for path in pages:
                at = f"{address}{path.relative_to(html).as_posix()}" if address else ""
                seen += page_faults(page, path, width, at)
                seen += barriers(page) if width == max(widths) else []
                faults += [f"{path.relative_to(html)} at {width} px: {fault}" for fault in seen]
                seen.clear()
    return faults


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("html", type=Path)
    parser.add_argument("--http", action="store_true", help="from a server, and not from disk")
    parser.add_argument("--dark", action="store_true", help="in the dark theme")
    parser.add_argument("--width", type=int, action="append", help="in place of 1280 and 400")
    given = parser.parse_args()
    if chromium_path() is None:
        sys.exit("No chromium on the PATH; on Debian and Ubuntu: apt-get install chromium")
    built, look = given.html.resolve(), {"widths": given.width or WIDTHS, "dark": given.dark}
    with served(built) if given.http else nullcontext("") as base:
        all_faults = book_faults(built, pages_of(built), **look, address=base)
    print("\n".join(all_faults) or f"{given.html}: whole at {look['widths']} px, nothing outside")
    sys.exit(bool(all_faults))
