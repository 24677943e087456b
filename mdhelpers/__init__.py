"""ModelDiff: compare two learning algorithms by how they use their training data."""

__version__ = "0.1.0"
