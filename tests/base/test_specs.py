import os
import sys
from pathlib import Path

import pytest

from mdhelpers.base import specs
from mdhelpers.base.specs import code_digest, find_named, load_named


def tree(folder: Path, **files: str) -> Path:
    for name, code in files.items():
        path = folder / f"{name.replace('__', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(code, "utf-8")
    return folder


def test_a_digest_takes_in_what_is_imported_from_the_same_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    files = {
        "mine": "import numpy\nfrom parts import a\ndef train(): import late\n",
        "parts__a": "from . import b\nfrom .deep.c import x\n",
        "parts__b": "import mine  # in a circle\n",
        "parts__deep__c": "x = 1\n",
        "late": "y = 1\n",
        "other": "nobody imports this\n",
        "numpy_like": "",
    }
    tree(tmp_path, **files)
    found = {"": code_digest("mine:train")}
    for name, code in files.items():
        tree(tmp_path, **{name: code + "# changed\n"})
        found[name] = code_digest("mine:train")
        tree(tmp_path, **{name: code})
    same = {name for name, digest in found.items() if digest == found[""]}
    assert same == {"", "other", "numpy_like"}
    assert len(set(found.values())) == len(files) - 1
    assert "mine" not in sys.modules


def test_a_digest_is_of_content_and_not_of_the_place(tmp_path, monkeypatch):
    found = set()
    for name in ("one", "two"):
        monkeypatch.setattr(sys, "path", list(sys.path))
        monkeypatch.chdir(tree(tmp_path / name, pack__mine="from . import b", pack__b=""))
        sys.path.insert(0, str(tmp_path / name))
        found.add(code_digest("pack.mine:train"))
    assert len(found) == 1
    with pytest.raises(ValueError, match="cannot import 'nowhere_at_all'"):
        code_digest("nowhere_at_all:train")


def test_it_is_said_once_from_where_code_is_run_and_before(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "path", list(sys.path))
    code = "import sys\nprint('imported', file=sys.stderr)\ndef train(): pass\n"
    monkeypatch.chdir(tree(tmp_path, users_words=code))
    specs._say_what_runs.cache_clear()
    for _ in range(2):
        load_named("users_words:train", "function", callable)
    del sys.modules["users_words"]
    said = capsys.readouterr().err.splitlines()
    assert [line.split("/")[-1] for line in said] == ["users_words.py", "imported"]
    assert said[0].startswith("This study runs code from ")


def test_a_word_is_known_or_names_where_to_look():
    assert find_named("one", {"one": 1}, "number", callable) == 1
    assert find_named("os.path:join", {}, "function", callable) is os.path.join
    with pytest.raises(ValueError, match=r"unknown number 'won'; did you mean 'one'.*module:name"):
        find_named("won", {"one": 1}, "number", callable)
    with pytest.raises(ValueError, match=r"unknown function of os\.path 'jion'; did you mean"):
        find_named("os.path:jion", {}, "function", callable)
