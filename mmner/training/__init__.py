"""The trainer, its checkpoints, and the search for hyper-parameters."""
