"""One complete pretraining implementation per file, in one folder per family."""
