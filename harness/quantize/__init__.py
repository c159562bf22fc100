"""From a variant of the config to a loaded model that proves what it is, and from a plain model to a checkpoint.

`loading` is the way in: `backends` says what works here, `formats` reads a model's folder, `methods` loads, `proof`
counts. `checkpoints` makes GPTQ and AWQ folders from texts of `calibration`.
"""
