"""Tell an example from others."""
