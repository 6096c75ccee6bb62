"""The shape of the package: one direction of imports, short modules that say what they are, type hints, examples."""

import ast
import doctest
import inspect
import io
import re
import subprocess
import sys
import tokenize
import tomllib
import typing
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import draem_aitex

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "draem_aitex"
FILES = sorted(PACKAGE.rglob("*.py"))
MOST_LINES, MOST_CODE = 300, 6540
# Whoever stands further right may import what stands further left; packages of one group do not know each other.
ORDER = (
    ("errors", "files", "devices"), ("data",), ("simulation",), ("anomalies", "model"), ("training",), ("detectors",),
    ("evaluation",), ("baselines",), ("workflow",), ("cli",), ("__main__",),
)  # fmt: skip
RANK = {name: rank for rank, group in enumerate(ORDER) for name in group}
FIGURES = {"plots", "charts"}  # they take arrays, import nothing that computes, and are imported by these alone:
DRAWING = {"draem_aitex.training.live", "draem_aitex.evaluation.html_report", *(f"draem_aitex.{n}" for n in FIGURES)}

SECTIONS = {  # of the docstrings of the public names
    "load_aitex": "Args Returns Raises Example", "load_folder": "Args Returns Raises Example",
    "load_simulated": "Args Returns Example", "TrainConfig": "Example", "train": "Args Returns Raises Example",
    "load_detector": "Args Returns Raises Example", "evaluate": "Args Returns Raises Example",
}  # fmt: skip
METHODS = {"predict": "Args Returns Raises Example", "calibrate": "Args Returns Raises Example", "save": "Args Example"}


def module_of(path: Path) -> str:
    """draem_aitex/data/rolls.py is `draem_aitex.data.rolls`."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


TREES = {module_of(path): ast.parse(path.read_text()) for path in FILES}


def imports_of(module: str, types: bool = True) -> set[str]:
    """The package's modules that a module imports anywhere in it, inside functions too.

    types: with those under `if TYPE_CHECKING`, which no running program imports.
    """
    found, tree = set(), TREES[module]
    blocks = [node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)]
    of_types = {node for block in blocks for node in ast.walk(block)}
    for node in ast.walk(tree):
        if node in of_types and not types:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import; write out the package's name"
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in TREES else node.module for name in whole}
    return {name for name in found if name in TREES and name != module}


def room(module: str) -> str:
    """The package, or the module beside the packages, that a module belongs to."""
    return (module.split(".") + [""])[1]


def test_every_module_has_its_place_in_the_order():
    assert {room(module) for module in TREES} - {""} - FIGURES == set(RANK)


def test_imports_point_one_way():
    wrong = []
    for module in TREES:
        here = room(module)
        for other in imports_of(module):
            there = room(other)
            if there in FIGURES:
                allowed = module in DRAWING
            elif here in FIGURES:
                allowed = there == "errors"
            elif not here:  # the public names: lazy, any package
                allowed = True
            elif not there:  # the version
                allowed = here == "cli"
            else:
                allowed = here == there or RANK[there] < RANK[here] or {here, there} <= set(ORDER[0])
            if not allowed:
                wrong.append(f"{module} imports {other}")
    assert not wrong, "\n".join(wrong)


def test_no_modules_import_each_other_in_a_circle():
    graph = {module: imports_of(module, types=False) for module in TREES if module != "draem_aitex"}
    try:
        tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


@pytest.mark.parametrize("module", [m for m in TREES if (PACKAGE.parent / m.replace(".", "/")).is_dir()][1:])
def test_a_packages_init_is_one_docstring_that_names_its_notebook(module):
    assert len(TREES[module].body) == 1
    doc = ast.get_docstring(TREES[module])
    if module == "draem_aitex.cli":
        assert "docs/command_line.md" in doc and (ROOT / "docs/command_line.md").is_file()
    else:
        assert any(
            list((ROOT / "notebooks").glob(f"{number}_*.ipynb")) for number in re.findall(r"notebook (\d\d)", doc)
        )


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_a_module_is_short_and_says_what_it_is(path):
    doc = ast.get_docstring(TREES[module_of(path)])
    assert doc and "TODO" not in doc
    assert len(path.read_text().splitlines()) <= MOST_LINES


def code_lines(path: Path) -> int:
    """Lines that hold code: no blank ones, no comments, no docstrings."""
    nothing = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
    tokens = tokenize.generate_tokens(io.StringIO(path.read_text()).readline)
    lines = {line for token in tokens if token.type not in nothing for line in range(token.start[0], token.end[0] + 1)}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            lines -= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return len(lines)


def test_lines_of_code_are_counted_without_blanks_comments_and_docstrings(tmp_path):
    path = tmp_path / "module.py"
    path.write_text(
        '"""One.\n\nTwo."""\n\n# three\ndef f(\n    a,\n):\n    "four"\n    return """five\n\nsix"""  # seven\n'
    )
    assert code_lines(path) == 6


def test_the_package_is_small():
    counts = {module_of(path): code_lines(path) for path in FILES}
    rooms = {name: sum(n for module, n in counts.items() if room(module) == name) for name in map(room, counts)}
    assert sum(counts.values()) <= MOST_CODE, f"{sum(counts.values())}: {rooms}"


def test_a_wheel_takes_along_every_package_every_data_file_and_the_shipped_checkpoints():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {name: ROOT / folder for name, folder in settings["package-dir"].items()}
    packages = {module_of(path.parent / "__init__.py") for path in FILES}
    assert set(settings["packages"]) == packages | set(folders)
    folders |= {name: ROOT / name.replace(".", "/") for name in packages}
    taken = {path for name, kinds in settings["package-data"].items() for k in kinds for path in folders[name].glob(k)}
    assert taken >= {path for path in PACKAGE.rglob("*.*") if path.suffix not in (".py", ".pyc")}
    assert taken >= set((ROOT / "checkpoints").glob("compact_*")) != set()


def test_importing_the_package_loads_nothing_heavy():
    code = "import draem_aitex, sys; print([name for name in ('torch', 'matplotlib', 'cv2') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "[]\n"


def test_the_public_names_are_all_there():
    assert set(draem_aitex.__all__) == {*SECTIONS, "Detector", "InputError"} <= set(dir(draem_aitex))
    for name in draem_aitex.__all__:
        assert getattr(draem_aitex, name).__name__ == name
    with pytest.raises(AttributeError, match="no_such_name"):
        draem_aitex.no_such_name  # noqa: B018


def public_functions(tree: ast.AST, prefix: str = "") -> list[tuple[str, ast.FunctionDef, bool]]:
    """Name, node and whether it is a method of every public function; `__init__` and `__call__` are public too."""
    found = []
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            found += public_functions(node, f"{node.name}.")
        elif isinstance(node, ast.FunctionDef) and (node.name in ("__init__", "__call__") or node.name[0] != "_"):
            static = any(isinstance(d, ast.Name) and d.id == "staticmethod" for d in node.decorator_list)
            found.append((prefix + node.name, node, bool(prefix) and not static))
        elif isinstance(node, ast.If | ast.Try | ast.With):
            found += public_functions(node, prefix)
    return found


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_public_functions_have_complete_type_hints(path):
    bare = []
    for name, node, method in public_functions(TREES[module_of(path)]):
        given = [*node.args.posonlyargs, *node.args.args][method:] + node.args.kwonlyargs
        given += [argument for argument in (node.args.vararg, node.args.kwarg) if argument]
        missing = [argument.arg for argument in given if argument.annotation is None]
        if node.returns is None and not name.endswith("__init__"):
            missing.append("return")
        if missing:
            bare.append(f"{name}: {', '.join(missing)}")
    assert not bare, "\n".join(bare)


def test_type_hints_can_be_read():
    """Of the public names: a name in quotes or under TYPE_CHECKING that nobody can resolve helps no editor."""
    for name in draem_aitex.__all__:
        thing = getattr(draem_aitex, name)
        typing.get_type_hints(thing)
        for _, method in inspect.getmembers(thing, inspect.isfunction) if inspect.isclass(thing) else ():
            if method.__module__.startswith("draem_aitex"):
                typing.get_type_hints(method)


@pytest.mark.parametrize("name", [*SECTIONS, *(f"Detector.{method}" for method in METHODS)])
def test_public_docstrings_have_their_sections_and_an_example(name):
    first, _, method = name.partition(".")
    thing = getattr(draem_aitex, first)
    doc = inspect.getdoc(getattr(thing, method) if method else thing)
    wanted = (METHODS[method] if method else SECTIONS[name]).split()
    assert not [section for section in wanted if not re.search(rf"^{section}s?:", doc, re.MULTILINE)]
    assert ">>> " in doc


@pytest.mark.parametrize("name", sorted(draem_aitex.__all__))
def test_examples_run(name, monkeypatch, capsys, simulated, tmp_path):
    """In a folder that looks like the repository's root, so that what they write is written elsewhere."""
    for path in ROOT.iterdir():
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    thing = getattr(draem_aitex, name)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    for example in doctest.DocTestFinder().find(thing, name, module=inspect.getmodule(thing), globs={}):
        runner.run(example)
    assert not runner.failures, capsys.readouterr().out
