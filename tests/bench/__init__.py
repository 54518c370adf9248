"""Tests of the benchmark of the project itself."""
