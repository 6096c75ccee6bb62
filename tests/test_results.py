"""What README.md and docs/results.md say of real rolls is what the records hold, and stands in one place."""

import re
import sys

import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
import tables  # noqa: E402


@pytest.mark.parametrize("path", tables.PAGES, ids=lambda path: path.name)
def test_tables_are_those_of_the_records(path):
    text = path.read_text()
    assert text == tables.rendered(text), "run: python benchmarks/tables.py"


def test_every_table_stands_once():
    pages = "".join(path.read_text() for path in tables.PAGES)
    assert sorted(re.findall(r"<!-- table: (\w+) -->", pages)) == sorted(tables.TABLES)
    assert pages.count("<!-- end -->") == len(tables.TABLES)


def test_the_shipped_checkpoints_figures_are_in_no_prose():
    """Nor are those of the baselines: whoever measures anew has the tables alone to write, which a command does."""
    for path in tables.PAGES:
        prose = re.sub(r"<!-- table: .*?<!-- end -->", "", path.read_text(), flags=re.DOTALL)
        for row in list(tables.detectors())[1:]:
            told = [cell for cell in (row[1], row[5], row[6]) if cell in prose]
            assert not told, f"{path.name}: {told}"


def test_a_table_with_another_figure_is_noticed():
    text = (ROOT / "README.md").read_text()
    row = " | ".join(list(tables.detectors())[1])
    assert row in text and tables.rendered(text.replace(row, row.replace("0.", "1.", 1))) == text


def test_the_readmes_image_is_the_first_figure_of_notebook_06():
    assert tables.IMAGE.read_bytes() == tables.image(), "run: python benchmarks/tables.py"
