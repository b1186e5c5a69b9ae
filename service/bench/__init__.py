"""Measure: engines beside each other and beside torch, and the service under load."""
