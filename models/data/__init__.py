"""Data sets: what clips there are, how each is labelled, and one way from a file to frames."""
