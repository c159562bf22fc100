"""Running an experiment: `plan` decides what is done, `runner` does it, `worker` holds one variant in its process."""
