"""The notebooks' prose: what it says is what the run gave, in the course's words and in short sentences.

A number in prose stands, digit for digit, in the output or the code of its own section (from `##` to `##`), or its cell
is tagged `cited` (not of this run: a paper, the real rolls) and names its source. What another machine or checkpoint
would change is not written at all: the cell prints it, in a sentence, and asserts what the prose concludes from it.
The opening's minutes are written by `notebooks/run.py --in-place`; a figure's alt text is the caption cell behind it.
"""

import re
import tomllib
from itertools import pairwise

import nbformat
import pytest
from conftest import ROOT

WRITTEN: list[tuple[str, float]] = [  # notebook, most minutes on two CPU cores
    ("01_Introduction", 2.5),
    ("02_Data_Preparation", 1.0),
    ("03_Synthetic_Anomaly_Generation", 1.0),
    ("04_DRAEM_Model", 2.0),
    ("05_Train_DRAEM", 5.0),
    ("06_Evaluate_DRAEM", 1.5),
]
NAMES = [name for name, _ in WRITTEN]
MINUTES = r"(\d+\.\d) minutes on two CPU cores"
NUMBER = r"(?<![\w.])\d[\d,]*(?:\.\d+)?(?!\w)"
NOT_OURS = r"cloth|repaint\w*|made-up|flawless|damaged|falsely|reach|levelled|false alarm rate"


def read(name):
    return nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)


def prose(cell):
    """The text of a markdown cell without headings, formulas, code, tags, addresses and numbers of notebooks."""
    text = re.sub(r"```.*?```|\$\$.*?\$\$|<!--.*?-->", "", cell.source, flags=re.DOTALL)
    text = re.sub(r"\$[^$\n]+\$|`[^`]*`|<[^>]+>|!\[[^\]]*\]|(?<=\])\([^)]*\)", " ", text)
    text = re.sub(
        r"\b[Nn]otebooks? \d\d( and \d\d)?|\b0[1-6] [A-Z][\w ]+|^\*\*\d+\.(?=\*\*| \w+)|^\d+\. ", " ", text, flags=re.M
    )
    return "\n".join(line for line in text.splitlines() if not line.startswith("#"))


def sentences(cell):
    """Sentences outside tables, each as one line."""
    text = "\n".join("" if line.startswith("|") else line for line in prose(cell).splitlines())
    blocks = re.split(r"\n\s*\n|\n(?=- )", text)
    return [
        one.strip() for block in blocks for one in re.split(r"(?<=[.!?:])\s+(?=[\"*_(]*[A-Z0-9])", block) if one.strip()
    ]


def numbers(text):
    return {found.replace(",", "").rstrip(".") for found in re.findall(NUMBER, text)}


def said(cell):
    """What a code cell shows as text: its source and its outputs."""
    shown = [output.get("text", "") for output in cell.outputs]
    shown += [
        str(output.get("data", {}).get(f"text/{kind}", "")) for output in cell.outputs for kind in ("plain", "markdown")
    ]
    return "\n".join([cell.source, *shown])


def sections(notebook):
    """Lists of cells, each from one heading of the second rank to the next."""
    found = [[]]
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and cell.source.startswith("## "):
            found.append([])
        found[-1].append(cell)
    return found


@pytest.mark.parametrize("name", NAMES)
def test_numbers_in_prose_are_those_of_the_run(name):
    wrong = []
    for cells in sections(read(name)):
        known = numbers("\n".join(said(cell) for cell in cells if cell.cell_type == "code"))
        for cell in (cell for cell in cells if cell.cell_type == "markdown"):
            if "cited" in cell.metadata.get("tags", []):
                assert re.search(r"arXiv|doi|AITEX|\]\(", cell.source), f"cited, from where? {cell.source[:60]}"
                continue
            text = re.sub(MINUTES, "", prose(cell))
            wrong += [f"{number} in {cell.source[:60]!r}" for number in sorted(numbers(text) - known)]
    assert not wrong, "\n".join(wrong)


def test_a_number_that_the_run_did_not_give_is_noticed():
    code = nbformat.v4.new_code_cell("print(n)", outputs=[nbformat.v4.new_output("stream", text="flags 23 of 1,024")])
    assert numbers(said(code)) == {"23", "1024"}
    kept = prose(nbformat.v4.new_markdown_cell("In notebook 03, $n=7$, `x[8]` and [link](#9): 18 of 1,024, 0.5 %."))
    assert numbers(kept) == {"18", "1024", "0.5"}


@pytest.mark.parametrize(("name", "most"), WRITTEN)
def test_the_opening_says_what_comes_and_how_long_it_takes(name, most):
    notebook = read(name)
    opening = "\n".join(cell.source for cell in sections(notebook)[0] if cell.cell_type == "markdown")
    minutes = re.findall(MINUTES, opening)
    assert len(minutes) == 1 and float(minutes[0]) <= most
    row = next(line for line in (ROOT / "README.md").read_text().splitlines() if f"(notebooks/{name}.ipynb)" in line)
    assert float(row.split("|")[-2]) == pytest.approx(float(minutes[0]), abs=0.2)
    assert "ou will be able to" in opening
    address = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Repository"]
    there = f"{address.removeprefix('https://')}/blob/main/notebooks/{name}.ipynb".removeprefix("github.com/")
    assert f"(https://colab.research.google.com/github/{there})" in opening
    assert f"(https://kaggle.com/kernels/welcome?src=https://github.com/{there})" in opening
    install = next(cell.source for cell in notebook.cells if cell.cell_type == "code")
    assert 'find_spec("draem_aitex") is None' in install and install.endswith(f"%pip install --quiet git+{address}")
    headings = [
        line.lstrip("# ") for cell in notebook.cells for line in cell.source.splitlines() if line.startswith("## ")
    ]
    assert re.findall(r"\]\(#([^)]+)\)", opening) == [heading.replace(" ", "-") for heading in headings]
    told = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    for target in re.findall(r"\]\((?!http|#)([^)#]+)\)", told):
        assert (ROOT / "notebooks" / target).exists(), target


@pytest.mark.parametrize("name", NAMES)
def test_every_figure_is_described(name):
    """By the cell behind it, which begins with a caption; the same words are the image's alt text."""
    for cell, following in pairwise(read(name).cells):
        images = [o for o in cell.get("outputs", []) if any(kind.startswith("image/") for kind in o.get("data", {}))]
        assert all("image/jpeg" not in output.data for output in images), "texture does not survive it"
        if images:
            caption = re.match(r"\*Figure: (.+?)\*(\n|$)", following.source)
            assert caption and [o.metadata["image/png"]["alt"] for o in images] == [caption[1]] * len(images), (
                cell.source
            )


@pytest.mark.parametrize("name", NAMES)
def test_sentences_are_short_and_in_the_courses_words(name):
    notebook = read(name)
    cells = [cell for cell in notebook.cells if cell.cell_type == "markdown"]
    lengths = []
    for sentence in (sentence for cell in cells for sentence in sentences(cell)):
        assert not (found := re.search(rf"\b({NOT_OURS})\b", sentence, re.IGNORECASE)), f"{found[0]}: {sentence}"
        assert len(re.findall(r"\([^)]*[a-z]{2}", sentence)) <= 1, f"one bracket a sentence: {sentence}"
        lengths.append(len(sentence.split()))
    assert sum(lengths) / len(lengths) < 25
    for block in (block for cell in cells for block in prose(cell).split("\n\n") if not block.startswith(("|", "-"))):
        assert len(block.split()) <= 120, block


@pytest.mark.parametrize("name", NAMES)
def test_a_lesson_has_its_parts_and_can_be_read_on_a_projector(name):
    notebook = read(name)
    assert 40 <= len(notebook.cells) <= 60
    whole = "\n".join(cell.source for cell in notebook.cells)
    assert {"## Takeaways", "## Quiz", "## Exercises"} <= set(whole.splitlines()) and whole.count("<details>") >= 2
    assert f"(solutions/{name}.ipynb)" in whole
    for cell in (cell for cell in notebook.cells if cell.cell_type == "code"):
        assert max(map(len, cell.source.splitlines())) <= 100, cell.source


@pytest.mark.parametrize("name", NAMES)
def test_the_instructors_plan_names_sections_that_are_there(name):
    """In its second column, in italics; a heading may go on behind what the plan names."""
    plan = (ROOT / "docs/instructor.md").read_text().split(f"### {name[:2]} ")[1].split("### ")[0]
    rows = [line.split("|") for line in plan.splitlines() if re.match(r"\| \d+–\d+ \|", line)]
    headings = [cell.source for cell in read(name).cells if cell.source.startswith("## ")]
    for section in re.findall(r"\*([^*]+)\*", "".join(row[2] for row in rows)):
        assert any(heading.startswith(f"## {section}") for heading in headings), section
    assert len(rows) >= 4 and [row[1].split("–")[0].strip() for row in rows[1:]] == [
        row[1].split("–")[1].strip() for row in rows[:-1]
    ]
