"""The notebooks as a reader has them: JupyterLab in headless Chromium, sliders dragged, a training stopped and resumed.

Each scene is a copy of a notebook that keeps its prose and the code cells it needs, found by what they say. Then it is
looked at in the dark theme and in the light one. Skipped where there is no Chromium; `.ci/run` installs one.
"""

import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import cv2
import nbformat
import numpy as np
import pytest
from conftest import ROOT
from playwright.sync_api import expect, sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here (on Debian: apt-get install chromium)")
PATIENCE = 120_000  # milliseconds, for a busy machine
# Text in prose and outputs, code aside, with a contrast under 3 to what is behind it, and figures one can see through.
UNREADABLE = """() => {
  const canvas = Object.assign(document.createElement("canvas"), {width: 1, height: 1}).getContext("2d");
  const rgba = color => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = color;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = ([r, g, b]) => [r, g, b].map(x => x / 255)
    .map(x => x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4)
    .reduce((sum, x, i) => sum + x * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = node => {
    const color = rgba(getComputedStyle(node).backgroundColor);
    return color[3] > 127 || !node.parentElement ? color : behind(node.parentElement);
  };
  const found = [];
  for (const area of document.querySelectorAll(".jp-MarkdownOutput, .jp-OutputArea-output")) {
    const walker = document.createTreeWalker(area, NodeFilter.SHOW_TEXT);
    for (let text = walker.nextNode(); text; text = walker.nextNode()) {
      const node = text.parentElement, style = getComputedStyle(node);
      if (!text.data.trim() || !node.getClientRects().length || node.closest("style, script, code")) continue;
      const [a, b] = [light(rgba(node.closest("svg") ? style.fill : style.color)), light(behind(node))];
      if ((Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05) < 3) found.push(text.data.trim());
    }
    for (const image of area.querySelectorAll("img[src^=data]")) {
      canvas.clearRect(0, 0, 1, 1);
      canvas.drawImage(image, 0, 0, 1, 1, 0, 0, 1, 1);
      if (canvas.getImageData(0, 0, 1, 1).data[3] < 255) found.push(`figure: ${image.alt}`);
    }
  }
  return found;
}"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory, simulated):
    """JupyterLab on the loopback, with settings of its own: the folder that it serves, and its address."""
    folder, settings = tmp_path_factory.mktemp("lab"), tmp_path_factory.mktemp("settings")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex()
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1"]
    command += [f"--ServerApp.port={port}", "--ServerApp.port_retries=0", f"--IdentityProvider.token={token}"]
    command += [f"--ServerApp.root_dir={folder}", "--LabApp.news_url=None", "--LabApp.expose_app_in_browser=True"]
    places = {f"JUPYTER{name}": str(settings) for name in ("_CONFIG_DIR", "_RUNTIME_DIR", "LAB_WORKSPACES_DIR")}
    log = (settings / "log").open("w")
    with subprocess.Popen(command, env={**os.environ, **places}, stdout=log, stderr=log) as server:
        try:
            wait_for(f"http://127.0.0.1:{port}/api/status?token={token}", server, settings / "log")
            yield folder, f"http://127.0.0.1:{port}/lab/workspaces/{{0}}/tree/{{0}}.ipynb?reset&token={token}"
        finally:
            server.terminate()


def wait_for(address, server, log):
    for _ in range(PATIENCE // 500):
        assert server.poll() is None, log.read_text()
        try:
            return urllib.request.urlopen(address).read()
        except OSError:
            time.sleep(0.5)
    pytest.fail(log.read_text())


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM)
        yield browser
        browser.close()


class Notebook:
    """A scene, open in JupyterLab, with a reader's hands."""

    def __init__(self, lab, browser, name, wanted, **changes):
        folder, address = lab
        notebook = nbformat.read(next((ROOT / "notebooks").glob(f"{name}_*.ipynb")), as_version=4)
        prose, code = ([cell for cell in notebook.cells if cell.cell_type == kind] for kind in ("markdown", "code"))
        code = [the_one(code, words) for words in wanted]
        notebook.cells = [cell for cell in notebook.cells if cell in prose or cell in code]
        for cell in code:
            cell.outputs, cell.execution_count = [], None
            for old, new in changes.items():
                cell.source = re.sub(rf"^{old} = .*", f"{old} = {new}", cell.source, flags=re.MULTILINE)
        nbformat.write(notebook, folder / f"{name}.ipynb")
        self.page, self.runs = browser.new_page(viewport={"width": 1400, "height": 1000}), 0
        self.page.set_default_timeout(PATIENCE)
        self.page.goto(address.format(name))  # a workspace of its own: no other notebook is open
        toolbar = self.page.locator(".jp-NotebookPanel-toolbar")
        expect(toolbar.locator("[data-jp-item-name=kernelName]")).to_contain_text("Python 3", timeout=PATIENCE)
        expect(self.page.locator(".jp-Spinner")).to_have_count(0, timeout=PATIENCE)
        expect(toolbar.locator("[data-status=idle]")).to_be_visible(timeout=PATIENCE)

    def cell(self, index):
        return self.page.locator(".jp-Notebook .jp-CodeCell").nth(index)

    def start(self, index):
        self.cell(index).locator(".jp-InputArea-editor").click()
        self.page.keyboard.press("Control+Enter")
        self.runs += 1

    def finish(self, index):
        """Wait for the end of a cell; what it printed."""
        cell = self.cell(index)
        expect(cell.locator(".jp-InputPrompt")).to_have_text(f"[{self.runs}]:", timeout=PATIENCE)
        wrong = cell.locator("[data-mime-type$=stderr], [data-mime-type$=error]")
        assert wrong.count() == 0, wrong.all_inner_texts()
        return "\n".join(cell.locator(".jp-RenderedText").all_inner_texts())

    def run(self, index):
        self.start(index)
        return self.finish(index)

    def press(self, button):
        self.page.locator(f".jp-NotebookPanel-toolbar [data-jp-item-name={button}]").first.click()

    def figure(self, index):
        return self.cell(index).locator(".jp-OutputArea-output img").last

    def look(self):
        """Everything can be read, in both themes, and formulas are set."""
        expect(self.page.locator("mjx-container").first).to_be_attached(timeout=PATIENCE)
        assert self.page.locator("mjx-merror").count() == 0
        for theme, light in (("JupyterLab Dark", "false"), ("JupyterLab Light", "true")):
            self.page.evaluate("theme => jupyterapp.commands.execute('apputils:change-theme', {theme})", theme)
            expect(self.page.locator("body")).to_have_attribute("data-jp-theme-light", light, timeout=PATIENCE)
            assert self.page.evaluate(UNREADABLE) == [], theme


def the_one(cells, words):
    """The one cell that has these words."""
    found = [cell for cell in cells if words in cell.source]
    assert len(found) == 1, f"{len(found)} cells have {words!r}"
    return found[0]


def test_the_playgrounds_sliders_change_its_figure(lab, browser):
    chain = ["import importlib.util", "%matplotlib inline", "DATA =", "SEEDS =", "def playground(", "interact("]
    scene = Notebook(lab, browser, "03", chain)
    for index in range(len(chain)):
        scene.run(index)
    figure, last = scene.figure(5), len(chain) - 1
    sliders = scene.cell(last).locator(".widget-slider")
    expect(sliders).to_have_count(4)
    for index in range(4):
        slider = sliders.nth(index)
        before, number = figure.get_attribute("src"), slider.locator(".widget-readout").inner_text()
        handle, track = (slider.locator(f".noUi-{part}").bounding_box() for part in ("handle", "base"))
        y = handle["y"] + handle["height"] / 2
        scene.page.mouse.move(handle["x"] + handle["width"] / 2, y)
        scene.page.mouse.down()
        scene.page.mouse.move(track["x"] + 0.5 * track["width"], y)
        scene.page.mouse.up()
        expect(slider.locator(".widget-readout")).not_to_have_text(number)
        expect(figure).not_to_have_attribute("src", before, timeout=PATIENCE)
    before = figure.get_attribute("src")
    scene.cell(last).locator("select").select_option("stain")
    expect(figure).not_to_have_attribute("src", before, timeout=PATIENCE)
    scene.look()


def test_a_live_training_is_stopped_by_the_button_and_goes_on(lab, browser):
    chain = ["%matplotlib inline", "collection = load_aitex(DATA)", "recipe = TrainConfig(minutes=MINUTES", "lesson ="]
    scene = Notebook(lab, browser, "05", chain, MINUTES="0.3")
    scene.run(0)
    scene.run(1)
    scene.start(2)
    figure = scene.figure(2)
    first = figure.get_attribute("src")
    expect(figure).not_to_have_attribute("src", first, timeout=PATIENCE)  # it grows in place
    scene.press("interrupt")
    assert scene.finish(2) == ""
    told = scene.run(3)
    steps = int(re.match(r"(\d+) steps", told)[1])
    assert "interrupted" in told and "finished" not in told
    assert scene.run(2) == ""
    told = scene.run(3)
    assert "finished" in told and "interrupted" not in told
    assert int(re.match(r"(\d+) steps", told)[1]) > steps
    scene.look()


def test_an_image_of_ones_own_is_judged(lab, browser):
    chain = ["%matplotlib inline", "folder, draw = ", "mine = load_detector(CHECKPOINT, quiet=True)"]
    scene = Notebook(lab, browser, "06", chain)
    for index in range(len(chain)):
        told = scene.run(index)
    assert re.search(r"\d+ of 3 defects hit", told)
    image = np.full((300, 400), 128, np.uint8)
    image[::8] = 60
    cv2.imwrite(str(lab[0] / "your.jpg"), image)
    scene.press("insert")
    scene.cell(3).locator(".jp-InputArea-editor").click()
    scene.page.keyboard.type('print(mine.predict("your.jpg", fabric="own"))')
    assert re.match(r"score 0\.\d+, threshold 0\.\d+: (normal|defective)", scene.run(3))
    scene.look()
