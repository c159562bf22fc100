"""Running an experiment: one process per variant, into a directory (`harness.store`) that survives any kill.

`plan` decides everything before a model is loaded, `runner` follows it, `worker` holds one variant.
"""
