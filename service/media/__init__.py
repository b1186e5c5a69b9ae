"""From uploaded bytes to frames as the network takes them; the offline half uses the very same functions."""
