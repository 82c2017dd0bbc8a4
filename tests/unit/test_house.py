"""Habits of the code that a machine can see: nothing twice, docstrings, errors that are told, a whole map."""

import ast
import inspect
import re
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from llasa import errors

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "llasa"
FILES = sorted(path for path in SOURCE.rglob("*.py"))
REPEATED = 8  # lines
Documented = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
ERRORS = {name for name, one in vars(errors).items() if inspect.isclass(one)}


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def written(path: Path) -> list[tuple[int, str]]:
    """Return the lines of code of a file, without imports, docstrings, comments and indents."""
    text = path.read_text(encoding="utf-8")
    told = set[int]()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Module | Documented) and ast.get_docstring(node) is not None:
            node = node.body[0]
        elif not isinstance(node, ast.Import | ast.ImportFrom):
            continue
        told.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    lines = ((number, line.split("  # ")[0].strip()) for number, line in enumerate(text.splitlines(), 1))
    return [(number, line) for number, line in lines if line and number not in told and line[0] != "#"]


def test_nothing_is_written_twice():
    places = defaultdict[tuple[str, ...], list[str]](list)
    for path in FILES:
        lines = written(path)
        for start in range(len(lines) - REPEATED + 1):
            block = tuple(line for _, line in lines[start : start + REPEATED])
            places[block].append(f"{path.relative_to(SOURCE)}:{lines[start][0]}")
    assert not [found for found in places.values() if len(found) > 1]


def public(node: ast.AST, name: str) -> Iterator[tuple[str, Documented]]:
    """Yield the public classes, functions and methods under a node, with their names."""
    for inner in getattr(node, "body", []):
        if isinstance(inner, Documented) and not inner.name.startswith("_"):
            yield f"{name}.{inner.name}", inner
            if isinstance(inner, ast.ClassDef):
                yield from public(inner, f"{name}.{inner.name}")


def offered() -> Iterator[tuple[str, Documented | ast.Module]]:
    for path in FILES:
        name, tree = str(path.relative_to(SOURCE)), tree_of(path)
        yield name, tree
        yield from public(tree, name)


def test_all_that_is_public_says_what_it_is_for():
    silent = [name for name, node in offered() if ast.get_docstring(node) is None and not plain(node)]
    assert not silent


def plain(node: ast.AST) -> bool:
    """Return whether the class says it: what a network does forward, and fields of a protocol."""
    forward = isinstance(node, ast.FunctionDef) and node.name == "forward"
    body = node.body[0] if isinstance(node, ast.FunctionDef) else None
    field = isinstance(body, ast.Expr) and isinstance(body.value, ast.Constant) and body.value.value is ...
    return forward or (field and any(getattr(one, "id", "") == "property" for one in node.decorator_list))


def raised(node: ast.AST) -> Iterator[str]:
    """Yield our errors that a function raises itself, not those of functions in it."""
    for inner in ast.iter_child_nodes(node):
        if isinstance(inner, Documented | ast.Lambda):
            continue
        made = inner.exc if isinstance(inner, ast.Raise) else None
        if isinstance(made, ast.Call) and isinstance(made.func, ast.Name) and made.func.id in ERRORS:
            yield made.func.id
        yield from raised(inner)


def test_docstrings_name_the_errors_that_are_raised():
    untold = list[str]()
    for name, node in offered():
        told = ast.get_docstring(node) or ""
        # A command's docstring is its help; what is as elsewhere says where.
        if isinstance(node, ast.FunctionDef) and not name.startswith("cli/") and "See `" not in told:
            untold += [f"{name}: {error}" for error in raised(node) if error not in told]
    assert not untold


def layers(page: str) -> list[set[str]]:
    """Return the layers that a page shows: the first block of text that begins with the command."""
    shown = re.search(r"```text\n(cli\b.*?)```", page, re.DOTALL)
    assert shown
    names = [line for line in shown[1].splitlines() if not line.startswith(" ")]  # what they are for
    return [{one.strip() for one in line.split("|")} for line in names]


@pytest.mark.parametrize("page", ["docs/architecture.md", "CONTRIBUTING.md"])
def test_maps_show_the_layers_that_are_checked(page: str):
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wanted = settings["tool"]["importlinter"]["contracts"][0]["layers"]
    told = layers((ROOT / page).read_text(encoding="utf-8"))
    assert told == [{one.strip() for one in layer.split("|")} for layer in wanted]
