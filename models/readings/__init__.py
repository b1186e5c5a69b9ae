"""How pixels reached a model in training, where its file does not say: the readings that there are, tried on real frames."""
