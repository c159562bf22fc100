"""From what was scored to a verdict: needs no model, no torch, and no memory of the run but its files.

`outcomes` are joined by `pairing`, become numbers in `compare` (with `cliffs`, `averages`) and words in `gate`
(with `decisions`, `tail_rates`, `rules`); `judging` does it for a run directory, `imported` for results of other tools.
`planning` computes what items can decide before anything runs, and `evidence` is what a report shows next to it.
"""
