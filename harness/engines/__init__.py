"""What answers questions: `protocol` is what the runner asks for, `transformers` the engine that ships.

`lm_eval` asks any model of lm_eval, `fake` makes up answers for rehearsals.
"""
