"""Construct a dataset: sentences of any source, images of a provider, splits that do not leak."""
