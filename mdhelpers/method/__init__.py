"""The paper: arrays in, arrays out. It knows no run, no file and no notebook."""
