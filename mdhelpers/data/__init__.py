"""Images, labels, scenes with known truth, and what can be drawn into images."""
