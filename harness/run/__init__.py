"""Running an experiment: one process per variant, into a directory that survives any kill.

`plan` decides everything before a model is loaded, `runner` goes through it, `worker` holds one variant and
`worker_process` the parent's end of it, `store` is the directory, `erasing` takes texts out of it again.
"""
