"""What answers questions: `protocol` is what the runner asks for, `transformers` the engine that ships.

`registry` has the others by name: `served` asks a server over HTTP (`http_client`, `wire`, `server_probe`), which
`managed` starts and `guard` ends; `lm_eval` asks any model class of lm_eval. `fake` makes up answers for rehearsals.
"""
