"""What tests of figures share."""

import pytest
from matplotlib import rc_context
from matplotlib.figure import Figure

from mdhelpers.show.style import use_style


@pytest.fixture
def ax():
    """Axes in the book's style; drawn at the end, since many faults show only then."""
    with rc_context():
        use_style()
        figure = Figure(figsize=(5, 5))
        yield figure.subplots()
        figure.canvas.draw()
