"""The bundle: one folder that holds a model and all that is needed to use it."""
