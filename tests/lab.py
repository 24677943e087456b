"""Open a finished run in JupyterLab as a user would, and drive it in headless Chromium.

Run by hand: ``python tests/lab.py STUDY --profile smoke``. Says what it saw.
"""

import os
import re
import subprocess
import sys
import threading
from contextlib import suppress
from queue import Queue

from browser import chromium_path

WAIT = 60_000  # milliseconds, for a kernel that starts on two busy cores


def address_of(process, patience: float = 60) -> str:
    """The address with its token, as JupyterLab prints it."""
    lines: Queue[str] = Queue()

    def read() -> None:
        with suppress(ValueError):  # it was closed
            for line in process.stderr:
                lines.put(line)

    threading.Thread(target=read, daemon=True).start()
    while True:
        line = lines.get(timeout=patience)
        if found := re.search(r"http://127\.0\.0\.1:\d+/lab\S*token=\w+", line):
            return found[0]


def drive(address: str) -> list[str]:
    """Run all cells; use the explorer; test a hypothesis of one's own; recompute."""
    from playwright.sync_api import sync_playwright

    seen = []
    with sync_playwright() as playwright:
        args = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=chromium_path(), args=args)
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        page.set_default_timeout(WAIT)
        page.goto(address)
        page.locator(".jp-Notebook").wait_for()
        page.get_by_text("| Idle").wait_for()  # the kernel has started
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        explorer = page.locator(".mdx:has(.mdx-tabs)")
        explorer.wait_for()
        explorer.locator(".mdx-rung").nth(1).click()
        seen.append("explorer: " + explorer.locator(".mdx-status").inner_text())
        test = page.get_by_role("button", name="Test", exact=True)
        test.wait_for()
        said = page.locator(".jupyter-widgets.widget-html-content, .widget-html-content")
        written = page.locator("input[placeholder*='kind']")
        written.fill("{kind: square, color: red}")
        written.press("Tab")
        test.click()
        hypothesis = said.filter(has_text="Applying square").or_(said.filter(has_text="a square"))
        hypothesis.first.wait_for()
        seen.append("workbench: " + hypothesis.first.inner_text().split("\n")[0])
        anew = page.locator(".mdx-recompute p, .jp-OutputArea-output:has-text('no models to take')")
        anew.first.wait_for()
        seen.append("recomputed: " + anew.first.inner_text())
        browser.close()
    return seen


def explored(options: list[str]) -> list[str]:
    """Start ``mdhelpers explore`` with these options, drive it, and stop it."""
    command = [sys.executable, "-m", "mdhelpers.command.cli", "explore", "--no-browser", *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            return drive(address_of(process))
        finally:
            process.terminate()


if __name__ == "__main__":
    print("\n".join(explored(sys.argv[1:])))
