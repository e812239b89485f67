"""The house: every import goes down the table of CONTRIBUTING.md, as its row allows, and none goes in a circle."""

import ast
import functools
import graphlib
import re
import sys
from collections.abc import Iterator
from fnmatch import fnmatch

from tests.support import ROOT, every

MODULES = frozenset(
    str(path.relative_to(ROOT))
    for folder in ("service", "schemas")
    for path in (ROOT / folder).rglob("*.py")
    if path.stat().st_size and path != ROOT / "service" / "__init__.py"
)
"""The paths of the modules. `service/__init__.py` is the version, which all may import."""
ROWS = re.findall(
    r"^\| (`.+) \| .+ \| (.+) \|$", (ROOT / "CONTRIBUTING.md").read_text().split("### Which file")[0], re.M
)
"""The paths and the imports of each row."""


def file_of(name: str) -> str | None:
    """Return the path of a module of this repository; None for others."""
    path = name.replace(".", "/")
    return next((each for each in (f"{path}.py", f"{path}/__init__.py") if each in MODULES), None)


@functools.cache
def imports(path: str) -> tuple[str, ...]:
    """Return the dotted names that a module imports anywhere: at its top, within functions, for types alone."""
    return tuple(_imports(path))


def statements(block: ast.AST) -> Iterator[ast.AST]:
    """Yield all statements within one. To walk through their expressions too takes ten times as long."""
    for field in ("body", "orelse", "finalbody", "handlers", "cases"):
        parts = getattr(block, field, ())
        for part in parts if isinstance(parts, list) else ():  # the parts of an expression are no lists
            yield part
            yield from statements(part)


def _imports(path: str) -> Iterator[str]:
    for node in statements(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level and node.module, f"{path} imports relative to itself"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if file_of(inner) else node.module


@functools.cache
def edges() -> dict[str, set[str]]:
    """Return the modules that each module imports. Not at the top of this module, which every process imports."""
    return {path: {file for name in imports(path) if (file := file_of(name))} - {path} for path in MODULES}


def paths_of(row: int) -> list[str]:
    """Return the patterns of a row: a folder, or a file. Those after the first are beside it."""
    first, *others = re.findall(r"`(.+?)`", ROWS[row][0])
    beside = first.rstrip("/").rpartition("/")[0]
    return [path + "*" * path.endswith("/") for path in (first, *(f"{beside}/{other}" for other in others))]


PATTERNS = sorted(((path, row) for row in range(len(ROWS)) for path in paths_of(row)), key=lambda pair: -len(pair[0]))


def row_of(module: str) -> int:
    """Return the row of a module: that of the longest path that fits."""
    for path, row in PATTERNS:
        if fnmatch(module, path) and ("*.py" not in path or module.count("/") == path.count("/")):
            return row
    raise AssertionError(f"no row of the table has {module}")


def allows(cell: str, module: str) -> bool:
    """Return whether the last cell of a row has a module."""
    if cell == "all below":
        return True
    for entry in re.findall(r"`(.+?)`", cell):
        whole = f"/{module}"
        if entry.endswith("*.py"):
            if re.fullmatch(rf".*/{entry.removesuffix('*.py')}[^/]+", whole):
                return True
        elif whole.endswith(f"/{entry}") or f"/{entry}/" in whole:
            return True
    return False


def test_the_table_has_every_module_and_nothing_else() -> None:
    assert {row_of(module) for module in MODULES} == set(range(1, len(ROWS)))  # row 0 is the page, which has no Python
    for path, _ in PATTERNS:
        assert list(ROOT.glob(path.removesuffix("*") if path.endswith("/*") else path)), path


@every("row", range(1, len(ROWS)), ids=lambda row: paths_of(row)[0])
def test_imports_go_down_the_table(row: int) -> None:
    wrong = [
        f"{module} imports {other}"
        for module in sorted(MODULES)
        if row_of(module) == row
        for other in sorted(edges()[module])
        if row_of(other) != row and not (row_of(other) > row and allows(ROWS[row][1], other))
    ]
    assert wrong == []


def test_no_import_goes_in_a_circle() -> None:
    tuple(graphlib.TopologicalSorter(edges()).static_order())  # raises CycleError, which names the circle


def test_the_engine_imports_numpy_alone_and_no_json() -> None:
    for module in MODULES:
        if module.startswith("service/engine/"):
            others = {name for name in imports(module) if not name.startswith("service.engine")}
            tops = {name.partition(".")[0] for name in others - {"service"}}  # that is the version
            assert tops - (sys.stdlib_module_names - {"json"}) <= {"numpy"}, module
