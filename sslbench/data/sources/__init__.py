"""Where data come from, one module per source: making the compact files, and reading them."""
