"""A learning algorithm as data, and the masks and margins of thousands of its models."""
