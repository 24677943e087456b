"""Open every page of a built book from disk in headless Chromium, and list what is wrong.

Run by hand on a real book: ``python tests/browser.py book/_build/html``.
"""

import os
import shutil
import sys
from contextlib import contextmanager
from pathlib import Path

WIDTHS = (1280, 400)
SHORTEST = 12  # characters of a picture's description
_LOCAL = ("file:", "blob:", "data:")
_PICTURES = """() => [...document.querySelectorAll("article img")]
    .filter(e => e.getClientRects().length > 0)
    .map(e => [e, e.getBoundingClientRect()])
    .map(([e, box]) => (
        {src: e.src.slice(-60), alt: e.alt, width: box.width,
         stretched: Math.abs(box.height * e.naturalWidth / box.width / e.naturalHeight - 1) > .03,
         right: e.closest("figure") ? 0 : box.right,
         caption: e.closest("figure")?.querySelector("figcaption")?.innerText ?? "",
         inches: Number([...e.classList].find(c => c.startsWith("inches-"))?.slice(7) ?? 0)}))"""
_TOP = """() => [...document.querySelectorAll("article img, .mdx-host")]
    .filter(e => e.getClientRects().length > 0)
    .map(e => e.getBoundingClientRect().top + scrollY)[0] ?? 0"""
FIRST_SCREEN = 1000  # pixels from a page's top to its first figure
PER_INCH = 72  # pixels an inch of a figure: letters of 9 points are 9 pixels high
_LOAD_ALL = "() => document.querySelectorAll('article img').forEach(e => e.loading = 'eager')"
_WIDGETS = """() => [...document.querySelectorAll(".mdx-host")].every(
    e => e.querySelector(".mdx-picture") !== null)"""
_LOADED = """() => [...document.querySelectorAll("article img")].every(
    e => e.complete && e.naturalWidth > 0 || e.getClientRects().length === 0)"""
_MATHS = """() => [...document.querySelectorAll("article .math")].every(
    e => e.querySelector("mjx-container") !== null)"""


def chromium_path() -> str | None:
    """Return the first Chromium on the PATH."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return next(filter(None, map(shutil.which, names)), None)


@contextmanager
def offline_page(width: int, faults: list[str]):
    """Yield a page that notes requests to the outside, failed loads and errors in ``faults``."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        args = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=chromium_path(), args=args)
        page = browser.new_page(viewport={"width": width, "height": 900})
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


def page_faults(page, path: Path, width: int) -> list[str]:
    """Open one page and say what a reader would miss on it."""
    page.goto(path.as_uri())
    page.wait_for_load_state("load")
    page.evaluate("() => window.MathJax?.startup?.promise")
    page.evaluate(_LOAD_ALL)
    found = [] if _settles(page, _WIDGETS) else ["a widget did not appear"]
    if not _settles(page, _LOADED):
        found.append("a picture did not load")
    for picture in page.evaluate(_PICTURES):
        if picture["width"] < 24 or picture["right"] > width + 1:
            found.append(f"picture too small or cut off: {picture}")
        if len(picture["alt"]) < SHORTEST or picture["alt"].endswith((".png", ".svg")):
            found.append(f"picture without a description: {picture}")
        if picture["stretched"]:
            found.append(f"picture out of shape: {picture}")
        if picture["inches"] and len(picture["caption"]) < SHORTEST:
            found.append(f"figure without a caption: {picture}")
        if picture["inches"] and picture["width"] < PER_INCH * picture["inches"]:
            found.append(f"text too small in: {picture}")
    if width > 1000 and path.name[:2].isdigit() and (top := page.evaluate(_TOP)) > FIRST_SCREEN:
        found.append(f"the first figure is at {top:.0f} px")
    if not page.evaluate(_MATHS):
        found.append("a formula was not set")
    if page.evaluate("() => document.documentElement.scrollWidth") > width + 1:
        found.append("the page scrolls sideways")
    return found


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


def book_faults(html: Path, pages: list[Path]) -> list[str]:
    """Visit pages at both widths, with axe at the larger; each fault names page and width."""
    faults: list[str] = []
    for width in WIDTHS:
        seen: list[str] = []
        with offline_page(width, seen) as page:
            for path in pages:
                seen += page_faults(page, path, width)
                seen += barriers(page) if width == max(WIDTHS) else []
                faults += [f"{path.relative_to(html)} at {width} px: {fault}" for fault in seen]
                seen.clear()
    return faults


if __name__ == "__main__":
    if chromium_path() is None:
        sys.exit("No chromium on the PATH; on Debian and Ubuntu: apt-get install chromium")
    built = Path(sys.argv[1]).resolve()
    all_faults = book_faults(built, pages_of(built))
    print("\n".join(all_faults) or f"{sys.argv[1]}: whole at {WIDTHS} px, no request to outside")
    sys.exit(bool(all_faults))
