"""Benchmark and evaluation harness for learned representations."""
