"""From the rows of a dataset to batches."""
