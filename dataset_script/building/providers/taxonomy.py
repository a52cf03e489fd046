"""Which entity types a Wikidata item agrees with, by its classes and the classes above them (P279*)."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import yaml

CLASSES = Path(__file__).with_name("wikidata_classes.yaml")

_UNKNOWN = "?"


class Taxonomy:
    """The classes that stand for each entity type.

    Args:
        path: YAML: for each type ``roots`` and ``not``, mappings from class id to its name.
        parents: from a class to those it is a subclass of, or to ``None`` where that is not known.
        max_depth: steps up from a class of an item.

    Raises:
        ValueError: the file is malformed.
    """

    def __init__(self, path: Path, parents: Callable[[str], Iterable[str] | None], max_depth: int):
        with path.open(encoding="utf-8") as file:
            self._types = _checked(yaml.safe_load(file), path)
        self._parents = parents
        self._max_depth = max_depth
        self._marked = {name for roots, others in self._types.values() for name in (*roots, *others)}
        self._above: dict[str, frozenset[str]] = {}

    @property
    def types(self) -> list[str]:
        """The entity types that have classes."""
        return list(self._types)

    def agrees(self, classes: Iterable[str], kind: str) -> bool | None:
        """Whether an item of these classes may stand for an entity of the type ``kind``; ``None``: not known."""
        roots, others = self._types[kind]
        above = frozenset().union(*map(self._marks, classes))
        if above & others:
            return False
        return None if _UNKNOWN in above else bool(above & roots)

    def forget(self) -> None:
        """Ask ``parents`` anew."""
        self._above.clear()

    def _marks(self, name: str) -> frozenset[str]:
        # Memory grows with the classes that items have, some 20,000 in all of Wikipedia, not with the items.
        if name not in self._above:
            seen, level = {name}, {name}
            for _ in range(self._max_depth):
                above: set[str] = set()
                for child in level:
                    parents = self._parents(child)
                    above.update((_UNKNOWN,) if parents is None else parents)
                level = above - seen - {_UNKNOWN}
                seen |= above
            self._above[name] = frozenset(seen & (self._marked | {_UNKNOWN}))
        return self._above[name]


def _checked(data: Any, path: Path) -> dict[str, tuple[frozenset[str], frozenset[str]]]:
    types = {}
    for kind, entry in (data if isinstance(data, dict) else {"?": None}).items():
        entry = entry if isinstance(entry, dict) else {}
        parts: list[Any] = [entry.get("roots"), entry.get("not") or {}]
        if not all(isinstance(part, dict) for part in parts) or not parts[0]:
            raise ValueError(f"{path}: {kind} is {entry!r}; expected roots (not empty) and not, mappings by class id.")
        for name in (name for part in parts for name in part):
            if not (isinstance(name, str) and name[:1] == "Q" and name[1:].isdigit()):
                raise ValueError(f"{path}: {kind}: {name!r} came; expected the id of a class, like Q5.")
        types[kind] = (frozenset(parts[0]), frozenset(parts[1]))
    return types
