"""Engines: each runs a bundle's networks on one device. Nothing above this package names one of them."""
