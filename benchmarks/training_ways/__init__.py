"""What ``training.py`` runs: three ways to train many small models, and clocks."""
