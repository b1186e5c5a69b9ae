"""Marey online: a bundle in, class probabilities out, over HTTP."""

__version__ = "0.1.0"
