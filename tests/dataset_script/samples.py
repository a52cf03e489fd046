"""The samples of ``tests/samples``, and rows in one line: words, with ``|TAG`` behind those of an entity."""

from pathlib import Path

SAMPLES = Path(__file__).resolve().parents[1] / "samples"


def marked(tokens: list[str], tags: list[str]) -> str:
    return " ".join(token if tag == "O" else f"{token}|{tag}" for token, tag in zip(tokens, tags, strict=True))
