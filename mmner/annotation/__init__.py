"""Texts and images of a file or folder in, their entities in a file out."""
