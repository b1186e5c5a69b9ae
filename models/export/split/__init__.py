"""A model as an encoder of single frames and a head over their features."""
