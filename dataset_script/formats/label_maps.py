"""Maps between tag sets: Twitter-2015's OTHER is the others' MISC, MultiNERD's fifteen types are CoNLL's four."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ..rows import Row, entity_type

BUILT_IN = Path(__file__).with_suffix(".yaml")


@dataclass(frozen=True)
class LabelMap:
    """From entity type to entity type; ``""`` where a type is no entity (``O``, ``""`` or null in a file)."""

    name: str
    types: Mapping[str, str]

    @classmethod
    def load(cls, label_map: str | Path | Mapping[str, str] | None) -> "LabelMap | None":
        """A map of ``label_maps.yaml`` by its name, a YAML file of the user's own, or a mapping.

        Raises:
            ValueError: there is no such name or file, or it is not one such map.
        """
        if label_map is None:
            return None
        if isinstance(label_map, Mapping):
            return cls("label_map", _checked(dict(label_map), "label_map"))
        name, path = str(label_map), Path(label_map).expanduser()
        built_in = yaml.safe_load(BUILT_IN.read_text(encoding="utf-8"))
        if name in built_in:
            return cls(name, _checked(built_in[name], name))
        if not path.is_file():
            known = ", ".join(sorted(built_in))
            raise ValueError(f"label_map is {name!r}, which is neither a file nor one of {known}.")
        try:
            return cls(name, _checked(yaml.safe_load(path.read_text(encoding="utf-8")), name))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is no YAML file: {error}") from None

    def tags(self, row: Row) -> list[str]:
        """The tags of ``row``, which are IOB2, with the types of the map.

        Raises:
            ValueError: the map does not name a type; ``errors="skip"`` does not hide this.
        """
        return [tag if tag == "O" else self._tag(row, tag, position) for position, tag in enumerate(row.tags)]

    def _tag(self, row: Row, tag: str, position: int) -> str:
        kind = entity_type(tag) or tag
        if kind not in self.types:
            detail = f"entity type {kind!r} came, which the label map {self.name!r} does not name"
            expected = f"expected one of {', '.join(self.types)}"
            remedy = "Add it to a map of your own (a YAML file)."
            raise ValueError(str(row.problem("unknown type", f"{detail}; {expected}", position, remedy)))
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
