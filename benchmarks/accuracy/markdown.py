"""Pieces of the report: tables, and what made a result."""

from collections.abc import Iterable, Sequence
from typing import Any


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """A table in Markdown; the first column to the left, the others to the right."""
    lines = [f"| {' | '.join(header)} |", f"|---{'|---:' * (len(header) - 1)}|"]
    return lines + [f"| {' | '.join(str(cell) for cell in row)} |" for row in rows]


def made_by(facts: dict[str, Any]) -> list[str]:
    """The command, the machine and the versions of a run, or those of each part of a table of which some rows were
    made later (`made`)."""
    if "made" in facts:
        return [line for part in facts["made"] for line in made_by(part)]
    machine, versions = facts["machine"], facts.get("versions", {"torch": facts.get("torch")})
    if isinstance(machine, dict):
        threads = f", torch's threads: {machine['threads']}" if "threads" in machine else ""
        device = machine.get("accelerator") or machine["processor"]
        machine = f"{device}, {machine['cpus']} cores{threads}"
    return [
        f"`{facts['command']}`  ",
        f"{machine}; {', '.join(f'{name} {version}' for name, version in versions.items())}",
        "",
    ]
