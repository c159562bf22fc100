"""Tail events: catastrophic answers that a mean score does not show, looked for in one answer at a time."""
