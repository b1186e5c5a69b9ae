"""A model as one network of whole clips."""
