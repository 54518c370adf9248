"""Tests; they mirror the layout of what they test."""
