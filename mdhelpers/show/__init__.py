"""One file per notebook: the figures and tables of that page; and what pages share."""
