"""From what was scored to a verdict: needs no model, no torch, and no memory of the run but its files.

`outcomes` become numbers in `compare` (with `cliffs`, `averages`, `pooled`) and words in `gate` (with `decisions`,
`tolerances`, `rules`); `judging` does it for a run directory, `imported` for results of other tools.
"""
