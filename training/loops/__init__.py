"""Training loops that read from top to bottom, one file per algorithm."""
