"""What became of a model, what it costs, and where INT8 may hurt."""
