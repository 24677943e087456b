"""Built pages made lighter: what Sphinx, MyST-NB and the theme have no option for.

Pictures become WebP, without loss: a quarter of what they weigh as PNG. Only galleries of many
textures, which would weigh a megabyte each, lose what nobody sees; the explorer's images never do.
The theme's script of icons, 1.5 MB on every page, goes: its style draws the same icons from a
font, which stays.
"""

import re
from pathlib import Path

from PIL import Image

from mdhelpers.base.records import file_digest, written

HEAVY, QUALITY = 500_000, 92  # bytes; of WebP with loss
FOLDERS = ("_images", "_static/sheets")
_PICTURE = re.compile(rf"((?:{'|'.join(FOLDERS)})/[\w.%-]+)\.png(?=[\"'])")


_ICONS = re.compile(r"\s*<script[^>]*/fontawesome\.js[^>]*></script>")


def lighten(pages: Path, kept: Path) -> None:
    """Put WebP in the place of the PNG pictures of built pages, and drop the script of icons.

    Parameters
    ----------
    pages : Path
        A folder of built pages, with pictures in ``FOLDERS``; it is changed.
    kept : Path
        A folder for pictures that were converted before, by digest and quality. Those that no page
        shows any more are removed.
    """
    kept.mkdir(parents=True, exist_ok=True)
    known, done = set(kept.iterdir()), set()
    for picture in sorted(path for f in FOLDERS for path in (pages / f).glob("*.png")):
        most = HEAVY if picture.parent.name == FOLDERS[0] else 0
        lighter = kept / f"{file_digest(picture)}-{most}-{QUALITY}.webp"
        if lighter not in known:
            with Image.open(picture) as image, written(lighter) as unfinished:
                image.save(unfinished, "webp", lossless=True, quality=50)
                if 0 < most < unfinished.stat().st_size:
                    image.save(unfinished, "webp", quality=QUALITY)
        done.add(lighter)
        picture.with_suffix(".webp").write_bytes(lighter.read_bytes())
        picture.unlink()
    for path in known - done:
        path.unlink()
    for page in pages.rglob("*.html"):
        text = _ICONS.sub("", page.read_text(encoding="utf-8"))
        page.write_text(_PICTURE.sub(r"\1.webp", text), encoding="utf-8")
    for script in pages.rglob("fontawesome.js*"):
        script.unlink()
