"""One downstream protocol per file."""
