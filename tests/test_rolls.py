"""An array or a file as a roll: edges found or given, notes, and a fabric code from the name."""

import cv2
import numpy as np
import pytest

from draem_aitex.data import fabric_edges, rolls
from draem_aitex.errors import InputError
from draem_aitex.simulation import loom


@pytest.fixture(scope="module")
def image():
    """Simulated fabric 01, backlight at the left."""
    return loom.simulate_roll("01", generator=np.random.default_rng(0), width=1024)[0]


def test_the_fabric_of_an_array_is_found(image):
    roll, notes = rolls.roll_of_array(image)
    assert roll.edges == fabric_edges.fabric_edges(image) and roll.edges[0] > 50 and not notes
    assert roll.image is image and roll.mask is None and roll.fabric == "" and roll.defect == rolls.NORMAL
    roll, notes = rolls.roll_of_array(image, "01", "mine", (200, 300))
    assert (roll.fabric, roll.name, roll.edges, notes) == ("01", "mine", (200, 300), [])


def test_an_image_without_fabric_counts_as_a_whole():
    roll, notes = rolls.roll_of_array(np.zeros((64, 96), np.uint8))
    assert roll.edges == (0, 96) and len(notes) == 1 and notes[0].endswith("; judged as a whole")


def test_edges_that_cross_are_no_edges(tmp_path, monkeypatch):
    monkeypatch.setattr(fabric_edges, "_weave_onset", lambda weave: 40)
    monkeypatch.setattr(fabric_edges, "_selvedge_start", lambda image, start: start)
    monkeypatch.setattr(fabric_edges, "_weave", lambda image, dark: np.zeros(image.shape[1]))
    assert cv2.imwrite(str(tmp_path / "a.png"), np.full((64, 64), 90, np.uint8))
    roll, notes = rolls.roll_of_file(tmp_path / "a.png")
    assert roll.edges == (0, 64) and roll.name == "a"
    assert notes == ["no fabric: its edges cross, at columns 40 and 24; judged as a whole"]


def test_a_files_name_says_its_fabric_and_its_notes_are_kept(image, tmp_path):
    assert cv2.imwrite(str(tmp_path / "0001_000_01.png"), image.astype(np.uint16) * 257)
    roll, notes = rolls.roll_of_file(tmp_path / "0001_000_01.png")
    assert (roll.name, roll.fabric) == ("0001_000_01", "01") and len(notes) == 1 and notes[0].startswith("16 bits")
    assert rolls.roll_of_file(tmp_path / "0001_000_01.png", fabric="03")[0].fabric == "03"
    assert rolls.fabric_code("some.jpg") is None


@pytest.mark.parametrize("wrong", [np.zeros((64, 96, 3), np.uint8), np.zeros((64, 96)), np.zeros((0, 96), np.uint8)])
def test_other_arrays_are_refused(wrong):
    with pytest.raises(InputError, match=r"image: .* of shape .*; expected uint8 \(H, W\)"):
        rolls.roll_of_array(wrong)


@pytest.mark.parametrize("edges", [(-1, 9), (9, 9), (0, 1025)])
def test_edges_outside_the_image_are_refused(image, edges):
    with pytest.raises(InputError, match="edges: .*; expected"):
        rolls.roll_of_array(image, edges=edges)
