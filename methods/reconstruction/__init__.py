"""Predict what was taken away from the input."""
