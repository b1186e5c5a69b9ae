"""From a recipe's network to trained weights."""
