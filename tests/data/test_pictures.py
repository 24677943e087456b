"""Pictures of every kind, read as a viewer shows them, or refused by name."""

import importlib.util
import os
import socket
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from mdhelpers.data.pictures import METADATA, SEVERAL, TURNS, printable, read_picture

RAMP = np.tile(np.linspace(0, 1, 64), (64, 1))
RAMP_READ = np.rint(255 * RAMP).astype(int)
SKY = np.zeros((64, 48, 3), np.uint8)
SKY[:32] = [250, 20, 20]


def read_image(path, size):
    return read_picture(path, size).pixels


def saved(path, image, **how):
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(path, **how)
    return path


@pytest.mark.parametrize(
    ("name", "pixels", "white"),
    [
        ("deep.png", (RAMP * 65535).astype(np.uint16), 65535),
        ("deep.tif", (RAMP * 65535).astype(np.uint16), 65535),
        ("twelve_of_sixteen.tif", (RAMP * 4095).astype(np.uint16), 4095),
        ("ten_of_sixteen.png", (RAMP * 1023).astype(np.uint16), 1023),
        ("whole.tif", (RAMP * 100_000 - 50_000).astype(np.int32), 50_000),
        ("unit.tif", RAMP.astype(np.float32), 1),
        ("large.tif", (RAMP * 1e9).astype(np.float32), 1e9),
    ],
)
def test_a_deep_ramp_stays_a_ramp(name, pixels, white, tmp_path):
    picture = read_picture(saved(tmp_path / name, pixels), 64)
    assert picture.range[1] == pytest.approx(white)
    assert np.abs(picture.pixels[..., 0] - RAMP_READ).max() <= 1


def test_the_range_of_a_deep_picture_can_be_given(tmp_path):
    path = saved(tmp_path / "dark.png", (RAMP * 4095).astype(np.uint16))
    dark = read_picture(path, 64, {"16 bits": (0, 65535)})
    assert dark.pixels.max() == round(255 * 4095 / 65535)
    assert dark.range == (0, 4095)  # its own, which a data set compares


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_pixels_that_are_no_number_are_refused(value, tmp_path):
    pixels = RAMP.astype(np.float32)
    pixels[3, 3] = value
    with pytest.raises(ValueError, match=r"gap\.tif: .*infinite or no number"):
        read_image(saved(tmp_path / "gap.tif", pixels), 16)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("tag", [1, *TURNS])
def test_a_photograph_is_turned_as_its_tag_says(tag, suffix, tmp_path):
    back = {6: 8, 8: 6}.get(tag, tag)  # every other turn undoes itself
    stored = Image.fromarray(SKY)
    stored = stored.transpose(TURNS[back]) if tag in TURNS else stored
    exif = Image.Exif()
    exif[0x0112] = tag
    read = read_image(saved(tmp_path / f"turned.{suffix}", stored, exif=exif), 48)
    assert np.abs(read[:20].astype(int) - [250, 20, 20]).max() < 15
    assert read[-20:].max() < 15


@pytest.mark.parametrize("tag", [0, 9, 2**16 - 1])
def test_a_tag_that_means_nothing_turns_nothing(tag, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = tag
    path = saved(tmp_path / "odd.png", SKY, exif=exif)
    assert np.array_equal(read_image(path, 48), SKY[8:56])


def test_a_broken_tag_is_no_harm_and_is_said(tmp_path):
    path = saved(tmp_path / "odd.png", SKY, exif=b"Exif\0\0no such thing")
    picture = read_picture(path, 48)
    assert np.array_equal(picture.pixels, SKY[8:56])
    assert picture.remarks == (METADATA,)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
@pytest.mark.parametrize("hidden", [0, 255, 77])
def test_what_is_transparent_is_white(mode, hidden, tmp_path):
    pixels = np.full((20, 20, 4), hidden, np.uint8)
    pixels[..., 3] = 0
    pixels[5:15, 5:15] = [90, 90, 90, 255]
    image = Image.fromarray(pixels).convert("LA" if mode == "LA" else "RGBA")
    if mode == "PA":
        image = image.quantize(8)
    read = read_image(saved(tmp_path / "cut_out.png", image), 20)
    expected = np.full((20, 20, 3), 255)
    expected[5:15, 5:15] = 90
    assert np.abs(read - expected).max() <= 2


def test_half_transparent_is_half_white(tmp_path):
    pixels = np.full((16, 16, 4), [100, 0, 0, 128], np.uint8)
    read = read_image(saved(tmp_path / "glass.png", pixels), 16)
    share = 128 / 255
    assert np.abs(read - [255 - 155 * share, 255 - 255 * share, 255 - 255 * share]).max() <= 1


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_colour_that_stands_for_transparent_is_white(mode, tmp_path):
    image = Image.new(mode, (16, 16), 0)
    image.paste(200 if mode == "L" else (200, 200, 200), (0, 0, 8, 16))
    clear = 0 if mode == "L" else (0, 0, 0)
    read = read_image(saved(tmp_path / "key.png", image, transparency=clear), 16)
    assert read[:, :8].max() == 200
    assert read[:, 8:].min() == 255


@pytest.mark.parametrize(
    ("suffix", "mode"),
    [("jpg", "CMYK"), ("tif", "CMYK"), ("tif", "YCbCr"), ("jpg", "L"), ("png", "1"), ("gif", "P")],
)
def test_other_colours_look_as_the_same_picture_in_rgb(suffix, mode, tmp_path):
    pixels = np.zeros((32, 32, 3), np.uint8)
    pixels[:, 16:] = 255
    path = saved(tmp_path / f"other.{suffix}", Image.fromarray(pixels).convert(mode))
    assert np.abs(read_image(path, 32).astype(int) - pixels).max() <= 8


@pytest.mark.parametrize("profile", [b"no profile", b"", "LAB"])
def test_a_wrong_profile_changes_nothing(profile, tmp_path):
    if profile == "LAB":
        profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    plain = read_image(saved(tmp_path / "plain.jpg", SKY), 48)
    wrong = read_image(saved(tmp_path / "wrong.jpg", SKY, icc_profile=profile), 48)
    assert np.array_equal(plain, wrong)


@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "tif"])
def test_of_several_pictures_the_first_is_read_and_it_is_said(suffix, tmp_path):
    first, second = Image.new("RGB", (16, 16), "red"), Image.new("RGB", (16, 16), "blue")
    path = saved(tmp_path / f"film.{suffix}", first, save_all=True, append_images=[second])
    picture = read_picture(path, 16)
    assert picture.pixels[..., 0].min() > 200
    assert picture.pixels[..., 2].max() < 60
    assert picture.remarks == (SEVERAL,)


def test_one_picture_alone_has_no_remark(tmp_path):
    assert read_picture(saved(tmp_path / "one.gif", SKY), 16).remarks == ()


def test_a_picture_is_known_by_its_content_not_its_suffix(tmp_path):
    path = saved(tmp_path / "really_png.jpg", SKY, format="png")
    assert np.array_equal(read_image(path, 48), SKY[8:56])


def chunk(kind: bytes, body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")


def png_head(width: int, height: int) -> bytes:
    size = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size + bytes([8, 2, 0, 0, 0]))


def broken_files(folder: Path) -> dict[str, bytes]:
    """Files that Pillow answers with errors of many kinds."""
    whole = saved(folder / "whole.png", np.arange(3600, dtype=np.uint8).reshape(30, 40, 3))
    data = whole.read_bytes()
    odd_chunk = png_head(4, 4) + chunk(b"IDAT", b"") + chunk(b"\x00\x9f\xea\x01", b"x")
    return {
        "bomb.png": png_head(30_000, 30_000) + chunk(b"IEND", b""),
        "large.png": png_head(10_000, 10_000) + chunk(b"IEND", b""),
        "cut.png": data[: len(data) // 2],
        "empty.png": b"",
        "text.png": b"no image",
        "chunk.png": odd_chunk,
        "head.png": png_head(4, 4)[:20],
        "program.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n",
        "cut.tif": b"II*\0\x08\0\0\0\x05\0",
        "cut.gif": b"GIF89a\x10\0\x10\0\xf0\0\0",
    }


@pytest.mark.parametrize("name", [
    "bomb.png", "large.png", "cut.png", "empty.png", "text.png", "chunk.png", "head.png",
    "program.png", "cut.tif", "cut.gif",
])  # fmt: skip
def test_a_broken_file_is_named(name, tmp_path):
    path = tmp_path / name
    path.write_bytes(broken_files(tmp_path)[name])
    with pytest.raises(ValueError, match=rf"{name}: \S"):
        read_image(path, 16)


def test_a_file_that_is_too_large_says_the_limit(tmp_path):
    path = tmp_path / "large.png"
    path.write_bytes(broken_files(tmp_path)["large.png"])
    with pytest.raises(ValueError, match=r"89,478,485 pixels are allowed; shrink it"):
        read_image(path, 16)


@pytest.mark.parametrize("kind", ["pipe", "folder", "socket", "device", "link", "circle"])
def test_what_is_no_file_is_never_opened(kind, tmp_path):
    path = tmp_path / "x.png"
    opened = socket.socket(socket.AF_UNIX)
    make = {
        "pipe": lambda: os.mkfifo(path),
        "folder": path.mkdir,
        "socket": lambda: bind_in(opened, path),
        "device": lambda: path.symlink_to(os.devnull),
        "link": lambda: path.symlink_to("nothing"),
        "circle": lambda: path.symlink_to(path),
    }
    make[kind]()
    words = {"circle": "symbolic links"}
    with opened, pytest.raises(ValueError, match=rf"x\.png: .*{words.get(kind, kind)}"):
        read_image(path, 16)


def bind_in(opened, path):
    """Paths of sockets are short: bind by the name alone."""
    before = Path.cwd()
    os.chdir(path.parent)
    try:
        opened.bind(path.name)
    finally:
        os.chdir(before)


def test_names_can_be_shown_anywhere():
    assert printable(os.fsdecode(b"caf\xe9\n\x1b[31m.png")) == r"caf\xe9\n\x1b[31m.png"
    assert printable("plain café.png") == "plain café.png"


def test_damaged_pictures_are_read_or_named(tmp_path):
    spec = importlib.util.spec_from_file_location(
        "fuzz_pictures", Path(__file__).parents[2] / "benchmarks" / "fuzz_pictures.py"
    )
    fuzz = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fuzz)
    root = fuzz.make_folder(tmp_path / "pets")
    found = [fuzz.outcome(root, number, seed=1) for number in range(200)]
    assert [one for one in found if one["outcome"] not in ("read", "named")] == []
    assert {one["outcome"] for one in found} == {"read", "named"}
