"""Questions in, scores out: `scorer` is the way in.

`catalogue` reads what ships, `build` makes a slice's items of lm_eval tasks (`tasks`, `items`), `code` asks whether
generated code may run, `sandbox` runs it, `tail` finds tail events in answers; `toolkit` is what task authors import.
"""
