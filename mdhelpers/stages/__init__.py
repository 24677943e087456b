"""One file per notebook: opens what it reads, calls the science, keeps the results."""
