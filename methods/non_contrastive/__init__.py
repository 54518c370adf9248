"""Agree between views without negatives."""
