"""What answers questions: `protocol` is what the runner asks for, `transformers` ships, `registry` has the others."""
