"""Files: masks, margins and scores that others made, and our own."""
