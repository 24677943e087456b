"""In which order files are tested: `make test` hands them out one by one to its processes."""

LONGEST = ("test_notebooks.py", "test_small_clip.py", "test_mask_training.py", "test_hosts.py")


def pytest_collection_modifyitems(items):
    """Put the longest files first, so that no process is left with one of them at the end."""
    order = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.name, len(LONGEST)))
