"""Questions in, scores out.

`scorer` is the way in. `catalogue` reads what ships, `build` checks a config against it and makes a slice's items from
lm_eval tasks (`tasks`, `items`), and `code` asks whether generated code may run. `toolkit` is what task authors import,
`sandbox` runs generated code, `tail` detects tail events in single answers.
"""
