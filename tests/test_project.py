"""The promises around the code: README, notebooks, requirements."""

import importlib
import json
import os
import re
import subprocess
import sys
import tomllib

import nbformat
import pytest
from conftest import ROOT
from nbclient import NotebookClient
from nbconvert import SlidesExporter

import draem_aitex
from draem_aitex.training import model_card
from draem_aitex.training.checkpoint import load_checkpoint
from draem_aitex.workflow import RECORDS

NOTEBOOKS = sorted((ROOT / "notebooks").glob("0*.ipynb"))
SOLUTIONS = sorted((ROOT / "notebooks/solutions").glob("0*.ipynb"))
NAMES = [
    "01_Introduction", "02_Data_Preparation", "03_Synthetic_Anomaly_Generation", "04_DRAEM_Model", "05_Train_DRAEM",
    "06_Evaluate_DRAEM",
]  # fmt: skip


BUILT = (ROOT / "CONTRIBUTING.md").read_text().split("\n## How it is built\n")[1].split("\n| beside")[0]


def test_contributing_names_every_module_and_no_other():
    """A row a package; the modules stand before the colons. Of the command line, a module a command is enough."""
    for row in re.findall(r"^\| `(\w+)`.*? \| (.*) \|$", BUILT, re.MULTILINE):
        package, modules = row
        folder = ROOT / "draem_aitex" / ("" if package == "draem_aitex" else package)
        named = re.findall(r"`(\w+)`", " ".join(part.split(":")[0] for part in modules.split("<br>")))
        there = {path.stem for path in folder.glob("*.py") if not path.stem.startswith("__")}
        assert set(named) == (there if package != "cli" else {"main", "shared"}), package
    packages = {path.parent.name for path in (ROOT / "draem_aitex").glob("*/__init__.py")}
    assert set(re.findall(r"^\| `(\w+)`", BUILT, re.MULTILINE)) == packages | {"draem_aitex"}


def headings(page):
    """The addresses of a page's headings."""
    found = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in found}


def test_links_lead_somewhere():
    """In every page: to a file, and to a heading where one is named."""
    for page in (*ROOT.glob("*.md"), *ROOT.glob("*/*.md")):
        for target, heading in re.findall(r"\]\((?!http)([^)#]*)#?([^)]*)\)", page.read_text()):
            there = page.parent / target if target else page
            assert there.exists(), f"{page.name}: {target}"
            assert not heading or heading in headings(there), f"{page.name}: {target}#{heading}"


def test_readme_is_two_screens_with_the_commands_behind_make():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 130
    recipes = re.findall(r"^\t\$\(BIN\)/(.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for command in recipes[:4]:  # what follows is lint, and the environment
        assert f".venv/bin/{command} " in text, command


@pytest.mark.parametrize(("name", "source"), [("compact_loom", "simulated fabric"), ("compact_aitex", "AITEX")])
def test_shipped_checkpoints_are_what_their_cards_say(name, source):
    path = ROOT / "checkpoints" / f"{name}.pt"
    content = load_checkpoint(path)
    assert path.stat().st_size < 8e6
    assert path.with_suffix(".md").read_text() == model_card.card(path.name, content)
    assert content["source"] == source and content["finished"] and set(content["figures"]) == {"development", "test"}
    assert content["made"]["command"].endswith(f"--out {path.name}")
    parts = [set(names.values()) for names in content["split"].values()]
    assert not set.intersection(parts[0], set.union(*parts[1:])), "trained on none of the rolls it was judged on"


def test_the_record_on_real_rolls_is_of_the_shipped_checkpoint():
    """Notebooks 01 and 06 read it: `evaluate --data data/aitex --checkpoint compact_aitex --json FILE`."""
    kept = load_checkpoint(ROOT / "checkpoints/compact_aitex.pt")["figures"]["test"]
    record = json.loads((RECORDS / "compact_aitex.json").read_text())
    assert {name: record[name] for name in kept} == pytest.approx(kept, abs=1e-3)


def test_the_version_is_one():
    """In the package, in the newest section of the changes and in the citation, which has its date too."""
    newest = re.search(r"^## (\S+), (\S+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    cited = (ROOT / "CITATION.cff").read_text()
    assert newest[1] == draem_aitex.__version__ and f"\nversion: {newest[1]}\n" in cited
    assert f'\ndate-released: "{newest[2]}"\n' in cited


def test_what_is_run_before_a_commit_is_lint_and_fetches_nothing():
    hooks = (ROOT / ".pre-commit-config.yaml").read_text()
    tools = re.findall(r"^ +entry: \.venv/bin/([\w ]+?(?: --check)?)(?: --force-exclude)?$", hooks, re.MULTILINE)
    lint = (ROOT / "Makefile").read_text().split("\nlint:")[1].split("\n\n")[0]
    assert len(tools) == len(re.findall(r"\$\(BIN\)", lint)) == 3
    assert all(f"$(BIN)/{tool}" in lint for tool in tools), tools
    assert re.findall("repo: (.+)", hooks) == ["local"]


def test_requirements_and_project_agree():
    listed = [line.strip() for line in (ROOT / "requirements.txt").read_text().splitlines()]
    listed = [line.split("#")[0].strip() for line in listed if line and not line.startswith(("#", "-e"))]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = {one for name, packages in project["optional-dependencies"].items() if name != "book" for one in packages}
    tools = {"pytest", "nbclient", "playwright", "hypothesis", "ruff", "mypy", "setuptools>=77"}
    assert set(listed) == set(project["dependencies"]) | extras | tools


def test_all_six_are_there():
    assert [path.stem for path in NOTEBOOKS] == NAMES


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_one_clean_run(path):
    """Committed outputs: counted 1 to N, no error, no stderr, no widget, no machine path, at most 1.5 MB."""
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert path.stat().st_size <= 1_500_000
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    for cell in code:
        for output in cell.outputs:
            assert output.output_type != "error" and output.get("name") != "stderr"
            assert "application/vnd.jupyter.widget-view+json" not in output.get("data", {})
            text = output.get("text", "") + str(output.get("data", {}).get("text/plain", ""))
            assert str(ROOT.parent) + os.sep not in text and "/tmp/" not in text and "/home/" not in text
    assert len([cell for cell in notebook.cells if cell.cell_type == "markdown"]) >= len(code) * 0.7
    assert "Headline: " in str([cell.outputs for cell in code])


@pytest.mark.parametrize("path", [*NOTEBOOKS, *SOLUTIONS], ids=lambda path: f"{path.parent.name} {path.stem}")
def test_a_notebook_runs_from_any_folder(path):
    """What comes with the project is asked for by name: no path leads from the notebook's folder."""
    code = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    used = [line.split("#")[0] for source in code for line in source.splitlines()]
    assert not [line for line in used if re.search(r"""["']\.\./""", line)]


@pytest.mark.parametrize("name", NAMES)
def test_notebook_runs_alone_from_a_fresh_kernel(name, tmp_path):
    path = ROOT / "notebooks" / f"{name}.ipynb"
    before = path.read_bytes()
    command = [sys.executable, str(ROOT / "notebooks/run.py"), "--out", str(tmp_path), str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert path.read_bytes() == before and (tmp_path / path.name).exists()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_becomes_slides_that_begin_with_its_headings(path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "notebooks")
    notebook = nbformat.read(path, as_version=4)
    importlib.import_module("run").lay_out(notebook)
    page, _ = SlidesExporter().from_notebook_node(notebook)
    columns = re.findall(r"<section><section>(.*?)</section></section>", page, re.DOTALL)
    headings = [cell for cell in notebook.cells if cell.cell_type == "markdown" and cell.source.startswith("#")]
    assert len(columns) == len(headings) and all(re.search(r"<h[123]", column) for column in columns)
    below = sum(column.count("</section><section>") for column in columns)
    assert below == sum(cell.cell_type == "code" for cell in notebook.cells)


def test_a_failing_notebook_fails_the_run(tmp_path):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("raise ValueError('no cloth')")])
    path = tmp_path / "07_Broken.ipynb"
    nbformat.write(notebook, path)
    command = [sys.executable, str(ROOT / "notebooks/run.py"), "--in-place", str(path)]
    before = path.read_bytes()
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and "FAILED: ValueError: no cloth" in done.stdout
    assert path.read_bytes() == before


WRONG = {  # one plausible wrong answer an exercise
    "01_Introduction": ["def share_right(labels):\n    return labels.mean()"],
    "02_Data_Preparation": ["def count_patches(edges, size, stride):\n    return (edges[1] - edges[0]) // stride"],
    "03_Synthetic_Anomaly_Generation": [
        "def pinhole(images, fabric, severity, generator):\n    return images * 0 + 1, fabric",
    ],
    "04_DRAEM_Model": [
        "def parameters(inputs, outputs):\n    return 9 * inputs * outputs + outputs",
    ],
    "05_Train_DRAEM": [
        'too_low, as_it_should_be, too_high = "A", "B", "C"',
    ],
    "06_Evaluate_DRAEM": ["def rank_of(n, rate):\n    return rate * n"],
}


def tagged(notebook, tag):
    return [cell for cell in notebook.cells if tag in cell.metadata.get("tags", [])]


@pytest.mark.parametrize("name", WRONG)
def test_checks_reject_wrong_answers_and_accept_the_solutions(name):
    lesson = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    solutions = nbformat.read(ROOT / "notebooks/solutions" / f"{name}.ipynb", as_version=4)
    assert 40 <= len(lesson.cells) <= 70
    checks = [cell.source for cell in tagged(lesson, "check")]
    assert checks == [cell.source for cell in tagged(solutions, "check")] and checks
    for cell in tagged(lesson, "check"):
        assert cell.outputs[0].text.startswith("not yet"), "the lesson leaves them unsolved"
    cells = tagged(solutions, "setup")
    for wrong, solution, check in zip(WRONG[name], tagged(solutions, "solution"), checks, strict=True):
        for answer in (wrong, solution.source):
            cells += [nbformat.v4.new_code_cell(answer), nbformat.v4.new_code_cell(check)]
    run = nbformat.v4.new_notebook(cells=cells)
    NotebookClient(run, kernel_name="python3", timeout=300).execute()
    said = [cell.outputs[0].text for cell in run.cells if cell.source in checks]
    assert all(text.startswith("not yet") for text in said[::2]), said
    assert all(text.startswith("right") for text in said[1::2]), said


def test_solutions_are_one_clean_run():
    for path in sorted((ROOT / "notebooks/solutions").glob("*.ipynb")):
        code = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
        assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1)), path.name
        assert all(
            cell.outputs[0].text.startswith("right") for cell in code if "check" in cell.metadata.get("tags", [])
        )
