"""One picture file, read as a person sees it.

A picture is turned as its EXIF tag says, laid on white where it is transparent, and cut to a
square in the middle. Of a file that holds several pictures the first is read. Colours are read as
they are stored: colour profiles are not applied, so that a wrong one does no harm.

Deep grey pictures have no agreed white. Of 16 bits, black is 0 and white the largest value of 8,
10, 12, 14 or 16 bits, the fewest bits that hold the picture; of 32 bits and of floating point,
black and white are the smallest and the largest value. A data set takes the range of all of its
pictures of a kind together, so that equal values look equal in every picture. Colour pictures of 16
bits a channel are read by their upper 8 bits.
"""

from __future__ import annotations

import os
import stat
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image, UnidentifiedImageError

FORMATS = ("JPEG", "PNG", "BMP", "DIB", "GIF", "WEBP", "TIFF")  # others may start programs
SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff"}
SEVERAL, METADATA = "several pictures", "faulty metadata"
BITS = (8, 10, 12, 14, 16)
ORIENTATION = 0x0112  # of EXIF
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SPECIAL = {
    stat.S_ISDIR: "a folder",
    stat.S_ISFIFO: "a pipe",
    stat.S_ISSOCK: "a socket",
    stat.S_ISCHR: "a device",
    stat.S_ISBLK: "a device",
}

Range = tuple[float, float]
Found = TypeVar("Found")


@dataclass(frozen=True, eq=False)
class Picture:
    """What one file gave.

    Attributes
    ----------
    pixels
        (size, size, 3) uint8.
    depth
        Of a deep grey picture "16 bits", "32 bits" or "floating point", else empty.
    range
        The values of a deep picture that are black and white when it is read alone.
    remarks
        `SEVERAL` and `METADATA` where the file is so.

    """

    pixels: np.ndarray
    depth: str = ""
    range: Range = (0.0, 255.0)
    remarks: tuple[str, ...] = ()


def read_picture(path: Path, size: int, ranges: Mapping[str, Range] | None = None) -> Picture:
    """Read one picture; ``ranges`` says what is black and white in deep ones, by depth.

    Raises
    ------
    ValueError
        Names the file, and says why it is not read, whatever the fault.

    """
    picture, faulty = guarded(path, lambda: _read(path, size, ranges or {}))
    remarks = picture.remarks + ((METADATA,) if faulty else ())
    return Picture(picture.pixels, picture.depth, picture.range, tuple(dict.fromkeys(remarks)))


def read_rgba(path: Path) -> np.ndarray:
    """Read one picture whole, with its opacity: (H, W, 4) uint8; errors are `read_picture`'s."""
    found = path.stat() if path.is_file() else None
    return _read_rgba(path, *((found.st_mtime_ns, found.st_size) if found else (0, 0)))


@lru_cache(maxsize=512)
def _read_rgba(path: Path, *_changed: int) -> np.ndarray:
    def read() -> np.ndarray:
        with Image.open(path, formats=FORMATS) as image:
            image.load()
            upright, _ = _upright(image)
            if depth := depth_of(upright.mode):
                values = np.asarray(upright, np.float64)
                upright = Image.fromarray(grey(values, own_range(values, depth)))
            return np.asarray(upright.convert("RGBA"))

    return guarded(path, read)[0]


def guarded(path: Path, read: Callable[[], Found]) -> tuple[Found, bool]:
    """What ``read`` gives of a picture file, and whether Pillow warned of its metadata.

    Raises
    ------
    ValueError
        Names the file, and says why it is not read, whatever the fault.
    """
    try:
        refuse_special(path)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            return read(), bool(said)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        limit = f"{Image.MAX_IMAGE_PIXELS:,} pixels are allowed"
        raise ValueError(f"{printable(path)}: too large, {limit}; shrink it ({error})") from error
    except UnidentifiedImageError as error:
        known = "no JPEG, PNG, BMP, GIF, WebP or TIFF picture, whatever its name says"
        raise ValueError(f"{printable(path)}: {known}") from error
    except Exception as error:  # Pillow's readers raise nearly every kind
        why = str(error).replace(str(path), path.name) or "no reason given"
        if not isinstance(error, ValueError):
            why = f"{type(error).__name__}: {why}"
        raise ValueError(f"{printable(path)}: {printable(why)}") from error


def pictures_at(place: Path, key: str) -> list[Path]:
    """A picture, or all of a folder in the order of their names.

    Raises
    ------
    FileNotFoundError
        If there are none; it names the ``key`` that names the place.
    """
    found = [place] if place.is_file() else sorted(place.rglob("*")) if place.is_dir() else []
    found = [file for file in found if file.suffix.lower() in SUFFIXES]
    if not found:
        raise FileNotFoundError(
            f"{key}: no picture at {place}; give a file or a folder of "
            f"{', '.join(sorted(SUFFIXES))}"
        )
    return found


def resized(picture: np.ndarray, side: int) -> np.ndarray:
    """The middle square of a picture (H, W, 4), scaled to ``side`` pixels, float32."""
    height, width, _ = picture.shape
    k = min(height, width)
    top, left = (height - k) // 2, (width - k) // 2
    middle = Image.fromarray(picture[top : top + k, left : left + k])
    return np.asarray(middle.resize((side, side), Image.Resampling.BILINEAR), np.float32)


def refuse_special(path: Path) -> None:
    """Refuse what may wait for ever when it is opened, and links to nothing."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        what = "a link to nothing" if path.is_symlink() else "not there"
        raise ValueError(f"it is {what}; mend or remove it") from None
    if not stat.S_ISREG(mode):
        kind = next((name for is_kind, name in SPECIAL.items() if is_kind(mode)), "no file")
        raise ValueError(f"it is {kind}, no picture file; move it elsewhere")


def printable(text: str | Path) -> str:
    """File names as they can be shown anywhere: bytes and signs that cannot are escaped."""
    plain = os.fsencode(str(text)).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in plain)


def _read(path: Path, size: int, ranges: Mapping[str, Range]) -> Picture:
    with Image.open(path, formats=FORMATS) as image:
        image.load()
        upright, turned = _upright(image)
        depth = depth_of(upright.mode)
        if depth:
            values = np.asarray(upright, np.float64)
            found = own_range(values, depth)
            rgb = Image.fromarray(grey(values, ranges.get(depth, found))).convert("RGB")
        else:
            found, rgb = Picture.range, on_white(upright)
        remarks = () if turned else (METADATA,)
        remarks += (SEVERAL,) if _holds_several(image) else ()
    return Picture(np.asarray(_square(rgb, size)), depth, found, remarks)


def _upright(image: Image.Image) -> tuple[Image.Image, bool]:
    """The picture turned as its tag says, and whether the tag could be read."""
    try:
        tag = image.getexif().get(ORIENTATION, 1)
    except Exception:  # nobody's picture is worse for a broken tag
        return image, False
    known = isinstance(tag, int) and tag in TURNS
    return (image.transpose(TURNS[tag]) if known else image), True


def _holds_several(image: Image.Image) -> bool:
    """Asked last, since it looks at what follows the first picture, which may be broken."""
    try:
        return getattr(image, "is_animated", False)
    except Exception:  # the first picture has been read
        return False


def depth_of(mode: str) -> str:
    """The depth of Pillow's mode in words; empty for modes of 8 bits."""
    if mode.startswith("I;16"):
        return "16 bits"
    return {"I": "32 bits", "F": "floating point"}.get(mode, "")


def own_range(values: np.ndarray, depth: str) -> Range:
    """The values of one deep picture that are black and white; see the module's head.

    Raises
    ------
    ValueError
        Where a value is infinite or no number.

    """
    if not np.isfinite(values).all():
        raise ValueError("it holds pixels that are infinite or no number; give them a value")
    low, high = float(values.min()), float(values.max())
    if depth != "16 bits":
        return low, high
    return 0.0, float(next(2**bits - 1 for bits in BITS if high < 2**bits))


def grey(values: np.ndarray, black_and_white: Range) -> np.ndarray:
    """Values from black to white as uint8; all black where the two are equal."""
    low, high = black_and_white
    share = (values - low) / ((high - low) or 1.0)
    return np.rint(255 * np.clip(share, 0, 1)).astype(np.uint8)


def on_white(image: Image.Image) -> Image.Image:
    """As RGB; what is transparent shows white paper."""
    if not image.has_transparency_data:
        return image.convert("RGB")
    rgba = image.convert("RGBA")
    paper = Image.new("RGBA", rgba.size, "white")
    return Image.alpha_composite(paper, rgba).convert("RGB")


def _square(rgb: Image.Image, size: int) -> Image.Image:
    """The middle square, resized where it must be."""
    side = min(rgb.size)
    left, top = (rgb.width - side) // 2, (rgb.height - side) // 2
    square = rgb.crop((left, top, left + side, top + side))
    if side == size:
        return square
    return square.resize((size, size), Image.Resampling.LANCZOS)
