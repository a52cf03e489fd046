"""The pictures inside the rows of a dataset, as files: for whoever looks a picture up by its name in a folder."""

import hashlib
import os
from pathlib import Path, PurePosixPath
from typing import Any


class PictureFiles:
    """Writes pictures that lie in rows into a folder, each content once.

    Args:
        folder: is made with the first picture; what lies in it is not replaced.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._names: dict[str, str] = {}  # by content

    def add(self, cell: dict[str, Any], named: str | None = None) -> str:
        """Write a picture, and say under which name.

        Args:
            cell: a value of a column of ``datasets.Image``, undecoded: its ``bytes``, and perhaps a ``path``.
            named: what the row calls its picture.

        Returns:
            The last part of that name or of the path, or, where another picture has it or there is none, one with the
            digest of the content.

        Raises:
            ValueError: the cell holds a path alone.
        """
        content, path = cell.get("bytes"), cell.get("path")
        if content is None:
            raise ValueError(f"the picture {path!r} is named, but not in the row; expected its bytes")
        digest = hashlib.sha256(content).hexdigest()
        if digest not in self._names:
            name = PurePosixPath(named or path or "").name
            name = "" if name == ".." else name
            if not name or os.path.lexists(self.folder / name):
                name = f"{digest[:16]}-{name}" if name else digest[:16]
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / name).write_bytes(content)
            self._names[digest] = name
        return self._names[digest]
