"""What the author of a task imports: seeds, strata, data files, scorers, numbers, limits."""
