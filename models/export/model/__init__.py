"""A user's Keras model: read as a flat graph, taken apart, copied."""
