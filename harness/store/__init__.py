"""The run directory: everything that a run writes and a verdict is computed from, and what may be kept of texts.

What runs models writes here; what judges and reports reads here. Nothing in it loads a model or judges.
"""
