"""Built pages become lighter and show the same."""

import numpy as np
import pytest
from PIL import Image

from mdhelpers.book import lighter
from mdhelpers.book.lighter import lighten


def built(folder, seed=0):
    (folder / "_images").mkdir(parents=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "_images/a b.png")
    shown = '<a href="_images/a%20b.png"><img src="_images/a%20b.png" alt="a b.png"></a>'
    (folder / "index.html").write_text(f"{shown} the file _images/a.png is", encoding="utf-8")
    (folder / "study").mkdir()
    (folder / "study/page.html").write_text("<img src='../_images/a%20b.png'>", encoding="utf-8")
    return pixels


def test_pictures_are_webp_with_the_same_pixels(tmp_path):
    pixels = built(tmp_path / "html")
    lighten(tmp_path / "html", tmp_path / "kept")
    (picture,) = (tmp_path / "html/_images").iterdir()
    assert picture.name == "a b.webp"
    np.testing.assert_array_equal(np.asarray(Image.open(picture)), pixels)


def test_pages_name_them_and_say_what_they_said(tmp_path):
    built(tmp_path / "html")
    lighten(tmp_path / "html", tmp_path / "kept")
    shown = '<a href="_images/a%20b.webp"><img src="_images/a%20b.webp" alt="a b.png"></a>'
    first = (tmp_path / "html/index.html").read_text(encoding="utf-8")
    assert first == f"{shown} the file _images/a.png is"
    second = (tmp_path / "html/study/page.html").read_text(encoding="utf-8")
    assert second == "<img src='../_images/a%20b.webp'>"


def test_what_was_converted_is_kept_and_what_is_not_shown_goes(tmp_path, monkeypatch):
    kept = tmp_path / "kept"
    built(tmp_path / "one")
    lighten(tmp_path / "one", kept)
    (first,) = kept.iterdir()
    with monkeypatch.context() as patch:
        patch.setattr(Image, "open", lambda *_: 1 / 0)
        built(tmp_path / "again")
        lighten(tmp_path / "again", kept)
    built(tmp_path / "other", seed=1)
    lighten(tmp_path / "other", kept)
    (second,) = kept.iterdir()
    assert first != second


def test_sheets_of_the_explorer_are_pictures_too(tmp_path):
    built(tmp_path / "html")
    (tmp_path / "html/_static/sheets").mkdir(parents=True)
    (tmp_path / "html/_images/a b.png").rename(tmp_path / "html/_static/sheets/5f.png")
    (tmp_path / "html/index.html").write_text('{"url":"../_static/sheets/5f.png"}')
    lighten(tmp_path / "html", tmp_path / "kept")
    assert (tmp_path / "html/_static/sheets/5f.webp").is_file()
    assert (tmp_path / "html/index.html").read_text() == '{"url":"../_static/sheets/5f.webp"}'


def test_a_heavy_picture_loses_what_nobody_sees(tmp_path, monkeypatch):
    monkeypatch.setattr(lighter, "HEAVY", 1000)
    (tmp_path / "html/_images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    pixels = rng.normal(128, 12, (120, 120, 1)).repeat(3, 2).astype(np.uint8)
    (tmp_path / "html/_static/sheets").mkdir(parents=True)
    paths = [tmp_path / f"html/{folder}/a.png" for folder in lighter.FOLDERS]
    for seed, path in enumerate(paths):
        Image.fromarray(pixels + seed).save(path)
    lighten(tmp_path / "html", tmp_path / "kept")
    shown, sheet = (np.asarray(Image.open(path.with_suffix(".webp"))).astype(int) for path in paths)
    assert 0 < np.abs(shown - pixels).mean() < 5
    np.testing.assert_array_equal(sheet, pixels + 1)


def test_a_picture_that_was_cut_short_is_not_kept(tmp_path, monkeypatch):
    built(tmp_path / "html")

    def cut(_, path, *__, **___):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "save", cut)
        with pytest.raises(KeyboardInterrupt):
            lighten(tmp_path / "html", tmp_path / "kept")
    assert not list((tmp_path / "kept").iterdir())


def test_the_script_of_icons_goes_and_others_stay(tmp_path):
    built(tmp_path / "html")
    scripts = tmp_path / "html/_static/scripts"
    scripts.mkdir(parents=True)
    for name in ("fontawesome.js", "fontawesome.js.map", "bootstrap.js"):
        (scripts / name).touch()
    asked = [f'<script defer src="_static/scripts/{n}.js?digest=5"></script>' for n in "ab"]
    icons = '<script defer src="_static/scripts/fontawesome.js?digest=5"></script>'
    (tmp_path / "html/index.html").write_text("\n  ".join([asked[0], icons, asked[1]]))
    lighten(tmp_path / "html", tmp_path / "kept")
    assert (tmp_path / "html/index.html").read_text() == "\n  ".join(asked)
    assert [path.name for path in scripts.iterdir()] == ["bootstrap.js"]
