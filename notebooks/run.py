"""Run the notebooks: `run.py --out build` leaves the committed files alone, `run.py --in-place` renews their outputs.

Each runs in a kernel of its own, from its own folder, on the embedded simulated fabric. Ends with a table: notebook,
seconds, headline figure (what the notebook's last line that starts with "Headline:" says).
"""

import argparse
import os
import re
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from tqdm import tqdm

HERE = Path(__file__).resolve().parent
WIDGET = "application/vnd.jupyter.widget-view+json"


def main():
    parser = argparse.ArgumentParser(description="Run the notebooks and show a table.")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--out", type=Path, help="folder for the executed copies")
    where.add_argument("--in-place", action="store_true", help="write the outputs into the notebooks themselves")
    parser.add_argument("notebooks", type=Path, nargs="*", help="which ones; all six without it")
    options = parser.parse_args()
    paths = options.notebooks or sorted(HERE.glob("0*.ipynb"))
    if not options.in_place:
        options.out.mkdir(parents=True, exist_ok=True)
    rows = []
    for path in paths:
        target = path if options.in_place else options.out / path.name
        rows.append((path.stem, *run(path, target)))
    width = max(len(row[0]) for row in rows)
    print(f"\n{'notebook':{width}}  seconds  headline")
    for name, seconds, headline, _ in rows:
        print(f"{name:{width}}  {seconds:7.0f}  {headline}")
    return 0 if all(row[-1] for row in rows) else 1


def run(path, target):
    """Execute one notebook into `target`: `(seconds, headline, succeeded)`. A failed run never overwrites in place."""
    notebook = nbformat.read(path, as_version=4)
    cells = sum(cell.cell_type == "code" for cell in notebook.cells)
    bar = tqdm(total=cells, desc=path.stem, unit="cell", disable=not sys.stderr.isatty())
    client = NotebookClient(
        notebook,
        timeout=900,
        kernel_name="python3",
        extra_arguments=["--log-level=ERROR"],  # the kernel warns of its unencrypted local socket at every start
        resources={"metadata": {"path": str(path.resolve().parent)}},
        on_cell_executed=lambda **_: bar.update(),
    )
    print(f"running {path.name}", flush=True)
    started = time.monotonic()
    try:
        client.execute()
        headline, succeeded = find_headline(notebook), True
    except CellExecutionError as error:
        headline, succeeded = f"FAILED: {error.ename}: {error.evalue}", False
    finally:
        bar.close()
    seconds = time.monotonic() - started
    clean(notebook)
    describe(notebook, seconds)
    lay_out(notebook)
    if succeeded or target != path:
        temporary = target.with_name(f".{target.name}.tmp")
        nbformat.write(notebook, temporary)
        os.replace(temporary, target)
    return seconds, headline, succeeded


def find_headline(notebook):
    """What the last printed line that starts with "Headline:" says."""
    printed = [
        output.get("text", "")
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if output.output_type == "stream" and output.name == "stdout"
    ]
    found = re.findall(r"^Headline: (.*)$", "\n".join(printed), re.MULTILINE)
    return found[-1] if found else "(none)"


def clean(notebook):
    """Drop what differs from run to run or lives in a kernel alone: timings of cells, widgets, kernel details."""
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if WIDGET not in output.get("data", {})]


def describe(notebook, seconds):
    """Write what the run took into the opening, and the caption behind each figure into it, as its alt text.

    A busy machine's minutes say nothing, so they are not written.
    """
    busy = os.getloadavg()[0] > os.cpu_count() + 1
    for cell in notebook.cells[: 0 if busy else 3]:
        cell.source = re.sub(r"\d+\.\d (?=minutes on two CPU cores)", f"{seconds / 60:.1f} ", cell.source)
    for cell, following in zip(notebook.cells, notebook.cells[1:], strict=False):
        caption = re.match(r"\*Figure: (.+?)\*(\n|$)", following.source)
        for output in cell.get("outputs", []):
            if caption and "image/png" in output.get("data", {}):
                output.metadata["image/png"] = {"alt": caption[1]}


def lay_out(notebook):
    """Tag the cells for `jupyter nbconvert --to slides`.

    A heading begins a slide, and a code cell one below it; text behind either stays with it, as captions do.
    """
    for cell in notebook.cells:
        heading = cell.cell_type == "markdown" and cell.source.startswith("#")
        kind = "slide" if heading else "subslide" if cell.cell_type == "code" else "-"
        cell.metadata["slideshow"] = {"slide_type": kind}


if __name__ == "__main__":
    sys.exit(main())
