"""Fast solvers under the method; each has a slow twin in the tests."""
