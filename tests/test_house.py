"""The rooms: what each may import, how long a module may be, and how much code travels with the weights."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MODULES = sorted(
    path
    for folder in (".", "dataset_script", "mmner", "benchmarks", "space")
    for path in (ROOT.glob("*.py") if folder == "." else (ROOT / folder).rglob("*.py"))
)
TRAVELLING = sorted(path.stem for path in ROOT.glob("*_2mner.py")) + ["handler"]

# The rooms of each group in order: a module may import from its own line and from the lines before it.
FLAT = [
    ["configuration_2mner", "alignment_2mner", "crf_2mner"],
    ["processing_2mner", "collaboration_2mner"],
    ["modeling_2mner"],
    ["explain_2mner", "onnx_2mner"],
    ["pipeline_2mner"],
    ["handler"],
]
DATASET = [
    [f"dataset_script.{name}" for name in ("rows", "report", "images", "files", "parquet", "arguments")],
    ["dataset_script.formats"],
    ["dataset_script.mmner", "dataset_script.loading", "dataset_script"],
    ["dataset_script.building"],
    ["dataset_script.auditing", "dataset_script.publishing"],
    ["dataset_script.__main__"],
]
MMNER = [
    ["mmner.options", "mmner.entity_f1", "mmner.probe", "mmner"],
    ["mmner.data"],
    ["mmner.training"],
    ["mmner.results"],
    ["mmner.demo", "mmner.annotation", "mmner.serving"],
    ["mmner.cli", "mmner.__main__"],
]
GROUPS = {"FLAT": FLAT, "DATASET": DATASET, "MMNER": MMNER}
PLACES = {name: (group, line) for group, lines in GROUPS.items() for line, names in enumerate(lines) for name in names}


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def place_of(module: str) -> tuple[str, int] | None:
    """The group and line of a module: those of its longest known prefix."""
    parts = module.split(".")
    prefixes = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
    return next((PLACES[prefix] for prefix in prefixes if prefix in PLACES), None)


def imports_of(path: Path) -> set[str]:
    """The full names of the modules that a file imports, as far as the text tells."""
    name = name_of(path)
    package = name.split(".") if path.stem == "__init__" else name.split(".")[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            known = {f"{module}.{alias.name}" for alias in node.names}
            files = {one for one in known if (ROOT / one.replace(".", "/")).with_suffix(".py").is_file()}
            found |= files or {module}
    return found


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_our_own_modules_exist_where_they_are_imported(path):
    """For benchmarks above all: not all of them are run by tests, and mypy lets missing modules pass."""
    ours = {module for module in imports_of(path) if module.split(".")[0] in ("mmner", "dataset_script", "benchmarks")}
    assert not ours - {name_of(path) for path in MODULES}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_has_at_most_800_lines(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 800


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_imports_only_its_own_line_and_those_before_it(path):
    name, imported = name_of(path), imports_of(path)
    top = name.split(".")[0]
    assert "run_mmner" not in imported
    if top == "dataset_script":
        assert not {one for one in imported if one.endswith("_2mner") or one.startswith("mmner")}
    if name in TRAVELLING:
        assert not {one for one in imported if one.startswith(("dataset_script", "mmner"))}
    if place_of(name) is None:
        return
    for other in imported:
        place = place_of(other)
        if place is not None and place[0] == place_of(name)[0]:
            assert place[1] <= place_of(name)[1], f"{name} imports {other}, whose room comes after its own"


def test_at_most_ten_files_travel_with_the_weights():
    from modeling_2mner import CODE_FILES

    assert sorted(CODE_FILES) == sorted(f"{name}.py" for name in TRAVELLING)
    assert len(CODE_FILES) <= 10
    assert sum(len((ROOT / name).read_text(encoding="utf-8").splitlines()) for name in CODE_FILES) <= 4_800
