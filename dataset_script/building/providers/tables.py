"""Tables of pictures that users write: TSV with a header, or JSONL."""

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any


def read_table(path: Path, needed: Sequence[str], columns: Sequence[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """The records of a file with their line, counted from 1.

    Args:
        path: JSONL if it is called so, else TSV.
        needed: the columns that a TSV must have.
        columns: those that it may have, for messages.

    Raises:
        ValueError: a line is malformed; it is named.
    """
    with path.open(encoding="utf-8-sig", newline="") as file:
        if path.suffix == ".jsonl":
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                try:
                    record = json.loads(line)
                except ValueError as error:
                    raise ValueError(f"{path}:{number}: {error}; expected a JSON object a line.") from None
                if not isinstance(record, dict):
                    raise ValueError(f"{path}:{number}: a {type(record).__name__} came; expected a JSON object.")
                yield number, record
            return
        rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        names = rows.fieldnames or ()
        missing = [name for name in needed if name not in names]
        if missing:
            raise ValueError(
                f"{path}: no column {', '.join(missing)} (columns: {', '.join(names) or 'none'}); expected "
                f"{', '.join(columns)}, at least {', '.join(needed)}."
            )
        for record in rows:
            if None in record or None in record.values():
                raise ValueError(f"{path}:{rows.line_num}: expected {len(names)} columns, as the header has.")
            yield rows.line_num, record
