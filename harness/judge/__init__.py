"""From what was scored to a verdict: needs no model, no torch, and no memory of the run but its files.

`outcomes` are joined by `pairing`, become numbers in `compare` (with `cliffs`, `averages`, `floor`) and words in `gate`
(with `decisions`, `tail_rates`, `rules`); `judging` does it for a run directory, `foreign` for what others ran.
`planning` computes what items can decide before anything runs, and `evidence` is what a report shows next to it.
"""
