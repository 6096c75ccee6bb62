"""The HTML page of an evaluation, and the tables of a notebook: whole, one file, everything shown."""

import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from judged_rolls import THRESHOLD, blank, judged_rolls, roll

from draem_aitex.errors import InputError
from draem_aitex.evaluation import html_report
from draem_aitex.evaluation.evaluator import Evaluation


@pytest.fixture(scope="module")
def judged():
    """Not to be changed: a thousand resamples are taken once."""
    return judged_rolls()


class Page(HTMLParser):
    """Counts a page's tags and checks that those opened are closed."""

    ALONE = {"meta", "img", "br", "link", "input", "hr"}

    def __init__(self, text):
        super().__init__()
        self.open, self.counts, self.sources = [], {}, []
        self.feed(text)
        assert not self.open, self.open

    def handle_starttag(self, tag, attributes):
        self.counts[tag] = self.counts.get(tag, 0) + 1
        self.sources += [value for name, value in attributes if name in ("src", "href")]
        if tag not in self.ALONE:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_one_file_and_shows_everything(judged, tmp_path):
    judged.to_html(tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text("utf-8")
    parsed = Page(text)
    assert all(source.startswith("data:image/") for source in parsed.sources) and "http" not in text
    assert parsed.counts["img"] == 2 + 1 + 2 + 4, "curves, histogram; a miss; two false positives; all four rolls"
    assert parsed.counts["table"] == 6 and parsed.counts["h1"] == 1
    for words in (
        "simulated fabric", "model.pt: DRAEM, &lt;small&gt;<br>by hand", "Threshold 0.5000", "199 patches of 14",
        "2 of 3", "Missed defects: 1", "False positives: 2", "Protocol", "AUPRO",
    ):  # fmt: skip
        assert words in text, words
    assert text.index("0009_000_00: row 10") < text.index("0009_000_00: row 20"), "the highest score first"
    assert "0106_010_03: broken pick, no mask: counts as a roll only" in text
    assert "0001_019_00: fuzzyball, 1 of 2 hit, 0 false positives" in text
    assert "0009_000_00: normal, 2 false positives, score 0.700" in text


def test_without_images_there_are_no_strips(judged):
    text = html_report.page(replace(judged, strips=[]))
    assert "Whole rolls" not in text and Page(text).counts["img"] == 2 + 1 + 2


def test_one_class_alone_has_no_curve():
    result = Evaluation(THRESHOLD)
    result.add(roll("0009_000_00"), blank())
    text = html_report.page(result)
    assert "all patches are of one class" in text and "nan" not in text and "None" not in text.replace("None: all", "")
    assert "img" not in Page(text).counts and "False positives: 0" in text


def test_what_it_says_is_text_and_no_markup(judged):
    missed = [judged.missed[0]._replace(title='<i>"x"</i>')]
    text = html_report.page(replace(judged, source="<b>mine</b>", missed=missed))
    Page(text)
    assert "<b>mine" not in text and "<i>" not in text and "&lt;i&gt;" in text


def test_a_notebook_gets_the_tables_alone(judged):
    text = judged._repr_html_()
    parsed = Page(text)
    assert parsed.counts["table"] == 6 and "img" not in parsed.counts and "html" not in parsed.counts
    assert "patch AUROC" in text and len(text) < 20_000


def test_a_page_that_cannot_be_written_is_named(judged, tmp_path):
    with pytest.raises(InputError, match="page.html: cannot be written"):
        judged.to_html(tmp_path / "nowhere" / "page.html")


def test_the_page_shows_every_case():
    judged = judged_rolls()
    scores = blank(4096)
    scores[128, 20::50] = 0.9
    judged.add(roll("0019_000_00", width=4096), scores)
    text = html_report.page(judged)
    assert len(judged.false_positives) == 2 + 82 and f"False positives: {2 + 82}" in text
    assert Page(text).counts["figure"] == 1 + 2 + 82


def test_a_browser_loads_every_image(judged, tmp_path):
    names = ("chromium", "chromium-browser", "google-chrome")
    browser = next((found for found in map(shutil.which, names) if found), None)
    if browser is None:
        pytest.skip(f"none of {', '.join(names)} is installed: the page is not opened in a browser")
    text = html_report.page(judged)
    count = (
        "<script>onload = () => { const all = [...document.images], shown = all.filter(one => one.naturalWidth > 0);"
        "document.body.dataset.loaded = `${shown.length} of ${all.length}`; }</script>"
    )
    file = tmp_path / "page.html"
    file.write_text(text.replace("</body>", f"{count}</body>"))
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=5000", "--dump-dom"]
    done = subprocess.run(
        [browser, *options, f"--user-data-dir={tmp_path / 'profile'}", file.as_uri()],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert 'data-loaded="9 of 9"' in done.stdout, done.stderr[-2000:]
