"""Which licences of pictures are taken: an allow-list, as data."""

import re
from pathlib import Path

import yaml

LICENCES = Path(__file__).with_name("licences.yaml")


class AllowList:
    """The licences under which a picture is kept.

    Args:
        path: YAML: a list of ``licence`` (a name for the reader) and ``patterns`` (regular expressions).

    Raises:
        ValueError: the file is malformed.
    """

    def __init__(self, path: Path = LICENCES):
        with path.open(encoding="utf-8") as file:
            entries = yaml.safe_load(file)
        try:
            patterns = [pattern for entry in entries for pattern in entry["patterns"]]
            self._patterns = [re.compile(pattern, re.IGNORECASE) for pattern in patterns]
        except (TypeError, KeyError, re.error) as error:
            raise ValueError(f"{path}: {error!r}; expected a list of mappings with licence and patterns.") from None

    def allows(self, licence: str) -> bool:
        """Whether a licence, named as its origin names it, is on the list."""
        return any(pattern.fullmatch(licence.strip()) for pattern in self._patterns)
