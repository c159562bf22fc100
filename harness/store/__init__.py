"""The run directory: all that a run writes and a verdict is computed from. Nothing here loads a model or judges."""
