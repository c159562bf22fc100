"""From a name in the config to a loaded model, and what it was measured to be.

`resolve` finds the model, `loading` loads it: `backends` says what works here, `formats` reads a model's folder,
`methods` quantizes, `audit` counts what was loaded. `checkpoints` makes GPTQ and AWQ folders from texts of
`calibration`; `compatibility` compares a candidate with its baseline.
"""
