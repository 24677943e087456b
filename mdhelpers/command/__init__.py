"""The command line: what it is given, what it runs, and what it says before, during and after."""
