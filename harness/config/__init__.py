"""What a user writes: the schema of a config, reading it, and the files that ship with the package."""
