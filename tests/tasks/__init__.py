"""Tests of the downstream protocols."""
