"""What training and evaluation of 2M-NER need and the weights do not."""

from pathlib import Path

MODEL = Path(__file__).resolve().parents[1] / "models" / "2m-ner-small"
"""The model that comes with the repository."""
