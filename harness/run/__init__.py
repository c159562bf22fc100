"""Running an experiment: one process per variant, into a directory that survives any kill.

`plan` decides everything before a model is loaded, `tracing` with what divergence is measured, `runner` follows the
plan, `worker` holds one variant and `worker_process` the parent's end of it. The directory is `harness.store`.
"""
