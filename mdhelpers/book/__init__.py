"""From executed pages to the HTML book."""
