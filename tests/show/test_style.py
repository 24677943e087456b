"""The look of figures, and what readers call a comparison."""

import re
from pathlib import Path

import pytest
from matplotlib import rc_context, rcParams

from mdhelpers.show import style
from mdhelpers.show.style import comparison_label, use_style


def test_style_is_for_paper_and_phones():
    with rc_context():
        use_style()
        assert rcParams["font.size"] >= 11
        assert rcParams["figure.constrained_layout.use"]
        assert rcParams["image.interpolation"] == "nearest"


def test_comparisons_have_readable_names():
    assert comparison_label("1_minus_2", ("fixed", "shifted")) == "fixed ∖ shifted"
    assert comparison_label("2_minus_1", ("fixed", "shifted")) == "shifted ∖ fixed"
    with pytest.raises(ValueError, match="expected one of"):
        comparison_label("2_1")


def test_no_letters_are_smaller_than_nine_points():
    """Pages show figures at 72 pixels an inch or more, so that these are nine pixels."""
    sources = (Path(style.__file__).parent).glob("*.py")
    small = re.compile(r"[(,\s](?:font)?size=[0-8](?:\.\d)?\b")
    assert [m[0] for path in sources for m in small.finditer(path.read_text())] == []
