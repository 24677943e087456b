"""How heavy the explorer is in a page: bytes, and the main thread's time to the first interaction.

Synthetic: 5,000 test images of 32 pixels, 10,000 training images, 50 directions each way.

    python benchmarks/explorer_page.py
"""

import argparse
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from playwright.sync_api import sync_playwright

from mdhelpers.book.widgets import host, script, view_of, with_files
from mdhelpers.show.explorer import explorer
from mdhelpers.show.views import CSS

PATHS = ("chromium", "chromium-browser", "google-chrome")


def made(n_test: int, n_train: int, n_directions: int, size: int = 32):
    rng = np.random.default_rng(0)
    smooth = rng.integers(0, 256, (n_test + n_train, 4, 4, 3), dtype=np.uint8)
    images = smooth.repeat(size // 4, 1).repeat(size // 4, 2)
    labels = rng.integers(0, 10, n_test + n_train)
    sets = {
        name: SimpleNamespace(
            projections=rng.normal(size=(n_test, n_directions)).astype(np.float32),
            explained_variance=rng.uniform(0.01, 0.05, (n_directions, 2)),
            component=np.arange(1, n_directions + 1),
        )
        for name in ("1_minus_2", "2_minus_1")
    }
    weights = rng.normal(size=(2, n_test, n_train)).astype(np.float32)
    test = SimpleNamespace(images=images[:n_test], labels=labels[:n_test])
    train = SimpleNamespace(images=images[n_test:], labels=labels[n_test:])
    models = [SimpleNamespace(weights=w) for w in weights]
    right = rng.uniform(size=(2, n_test))
    return explorer(sets, *models, train, test, [f"class {i}" for i in range(10)], right=right)


def main(n_test: int, n_train: int, n_directions: int) -> None:
    import shutil

    widget = made(n_test, n_train, n_directions)
    view = view_of({key: getattr(widget, key) for key in widget.keys if key != "layout"})
    pictures: dict[str, bytes] = {}
    body = host("explorer", with_files(view, pictures, "")) + script("explorer")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        page_path = Path(folder) / "page.html"
        page_path.write_text(
            f"<!doctype html><meta charset=utf-8><style>{CSS.read_text()}</style>{body}"
        )
        for name, content in pictures.items():
            place = Path(folder) / "_static/sheets" / Path(name).name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)
        path = next(filter(None, map(shutil.which, PATHS)))
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        page = browser.new_page()
        session = page.context.new_cdp_session(page)
        session.send("Performance.enable")
        page.goto(page_path.as_uri())
        page.locator(".mdx-end button").first.wait_for()
        first = busy(session)
        page.locator(".mdx-rung").nth(1).click()
        page.locator(".mdx-end button").first.wait_for()
        second = busy(session)
        browser.close()
    print(f"{n_test} test images, {n_train} training images, 2 x {n_directions} directions")
    print(f"page                        {len(body) / 1e6:6.2f} MB")
    print(f"pictures, loaded when seen  {sum(map(len, pictures.values())) / 1e6:6.2f} MB")
    print(f"main thread until shown     {first:6.2f} s")
    print(f"another direction           {second - first:6.2f} s")


def busy(session) -> float:
    """Seconds that the page's main thread has worked so far."""
    metrics = session.send("Performance.getMetrics")["metrics"]
    return next(m["value"] for m in metrics if m["name"] == "TaskDuration")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--test", type=int, default=5000)
    parser.add_argument("--train", type=int, default=10000)
    parser.add_argument("--directions", type=int, default=50)
    given = parser.parse_args()
    main(given.test, given.train, given.directions)
