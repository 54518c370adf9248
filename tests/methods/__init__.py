"""Tests of the pretraining methods."""
