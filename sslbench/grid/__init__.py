"""grid.toml → cells → jobs → submitit."""
