"""Maps between tag sets: Twitter-2015's OTHER is the others' MISC, MultiNERD's fifteen types are CoNLL's four."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ..rows import Row, entity_type

BUILT_IN = Path(__file__).with_suffix(".yaml")


def load_label_map(name_or_path: str | Path) -> dict[str, str]:
    """The map of this name in ``label_maps.yaml``, or that of a YAML file of the user's own.

    Returns:
        Entity type -> entity type; ``""`` where what has this type is no entity (``O``, ``""`` or null in the file).

    Raises:
        ValueError: there is no such name or file, or the file is not one such map.
    """
    built_in = yaml.safe_load(BUILT_IN.read_text(encoding="utf-8"))
    if str(name_or_path) in built_in:
        return _checked(built_in[str(name_or_path)], str(name_or_path))
    path = Path(name_or_path).expanduser()
    if not path.is_file():
        raise ValueError(
            f"label_map is {str(name_or_path)!r}, which is neither a file nor one of {', '.join(sorted(built_in))}."
        )
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no YAML file: {error}") from None
    return _checked(content, str(path))


@dataclass(frozen=True)
class LabelMap:
    """A map of entity types, as it is applied to rows. ``name`` is for messages."""

    name: str
    types: Mapping[str, str]

    @classmethod
    def load(cls, label_map: "str | Path | Mapping[str, str] | LabelMap | None") -> "LabelMap | None":
        """By name or path, or from a mapping at hand.

        Raises:
            ValueError: as ``load_label_map``.
        """
        if label_map is None or isinstance(label_map, LabelMap):
            return label_map
        if isinstance(label_map, Mapping):
            return cls("label_map", _checked(dict(label_map), "label_map"))
        return cls(str(label_map), load_label_map(label_map))

    def tags(self, row: Row) -> list[str]:
        """The tags of ``row``, which are IOB2, with the types of the map.

        Raises:
            ValueError: the map does not name a type; no policy for malformed rows hides this.
        """
        return [self._tag(row, tag, position) for position, tag in enumerate(row.tags)]

    def dropped(self, tags: Sequence[str]) -> list[str]:
        """The types of the entities in ``tags`` that are none after the map, one each."""
        return [tag[2:] for tag in tags if tag.startswith("B-") and not self.types.get(tag[2:], tag)]

    def _tag(self, row: Row, tag: str, position: int) -> str:
        if tag == "O":
            return tag
        kind = entity_type(tag) or tag
        if kind not in self.types:
            line = row.line if row.first_token_line is None else row.first_token_line + position
            raise ValueError(
                f"{row.path}:{line}: entity type {kind!r} came, which the label map {self.name!r} does not name; "
                f"expected one of {', '.join(self.types)}. Add it to a map of your own (a YAML file)."
            )
        return f"{tag[:2]}{self.types[kind]}" if self.types[kind] else "O"


def _checked(content: Any, name: str) -> dict[str, str]:
    if not isinstance(content, dict) or not content:
        came = type(content).__name__
        raise ValueError(f"label map {name}: a {came} came; expected a line 'TYPE: TYPE' for each type.")
    checked = {}
    for old, new in content.items():
        new = "" if new in (None, "O") else new
        if not isinstance(old, str) or not isinstance(new, str) or (new and entity_type(f"B-{new}") is None):
            # YAML reads a bare NO, ON or 1 as something other than text.
            raise ValueError(f"label map {name}: '{old}: {new}' came; expected entity types, in quotes if need be.")
        checked[old] = new
    return checked
