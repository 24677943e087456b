"""A run's folder: what each stage made, from what, and whether it still is."""
