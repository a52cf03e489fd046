"""Files that tests write and read back: text, JSON lines, and what a folder holds."""

import json
from pathlib import Path


def write_file(path: Path, content: object) -> Path:
    """Text as it stands, anything else as JSON. The folder is made where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return path


def write_jsonl(path: Path, *rows: object) -> Path:
    """A row a line, a string as it stands."""
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    return write_file(path, "".join(f"{line}\n" for line in lines))


def read_jsonl(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def contents_of(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by its path within."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
