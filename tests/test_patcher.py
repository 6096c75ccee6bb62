import time

import numpy as np
import pytest

from draem_aitex.data.patcher import extract_patches, patch_columns, patch_maxima, stitch_patches
from draem_aitex.errors import InputError


def test_columns_start_at_the_fabric_and_drop_the_remainder():
    assert patch_columns((100, 100 + 3 * 256 + 255)) == [100, 356, 612]
    assert patch_columns((0, 255)) == []


def test_stitching_undoes_extraction():
    image = np.random.default_rng(0).integers(0, 256, (512, 1200), dtype=np.uint8)
    patches, corners = extract_patches(image, (50, 1200))
    assert patches.shape == (8, 256, 256) and corners[0] == (0, 50) and corners[4] == (256, 50)
    stitched = stitch_patches(patches, corners, image.shape)
    assert np.array_equal(stitched[:, 50:1074], image[:, 50:1074])
    assert not stitched[:, :50].any() and not stitched[:, 1074:].any()


def test_overlapping_patches_are_averaged():
    stitched = stitch_patches(np.array([[[1.0, 1.0]], [[3.0, 3.0]]]), [(0, 0), (0, 1)], (1, 3))
    assert stitched.tolist() == [[1.0, 2.0, 3.0]]


def test_maxima_are_the_patches_maxima():
    scores = np.random.default_rng(1).random((256, 1000)).astype(np.float32)
    patches, _ = extract_patches(scores, (10, 1000))
    assert np.array_equal(patch_maxima(scores, (10, 1000)), patches.max(axis=(1, 2)))


def test_size_must_be_positive():
    with pytest.raises(InputError, match="size: 0"):
        patch_columns((0, 10), 0)


def test_covering_patches_end_with_the_fabric():
    assert patch_columns((100, 700), 256, remainder="cover") == [100, 356, 444]
    assert patch_columns((100, 612), 256, remainder="cover") == [100, 356]
    assert patch_columns((100, 200), 256, remainder="cover") == [100]
    assert patch_columns((0, 100), 32, 24) == [0, 24, 48]


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_any_picture_comes_back_exactly(dtype):
    rng = np.random.default_rng(0)
    for _ in range(60):
        height, width, size = rng.integers(1, 90, 3)
        stride = int(rng.integers(1, size + 1))
        image = (255 * rng.random((height, width))).astype(dtype)
        patches, corners = extract_patches(image, None, int(size), stride, remainder="cover")
        assert patches.shape == (len(corners), size, size)
        assert np.array_equal(stitch_patches(patches, corners, image.shape), image), (height, width, size, stride)


def test_overlaps_are_blended_without_a_seam():
    """Two patches that disagree by 1: the blend climbs evenly, its steepest step far below the disagreement."""
    stitched = stitch_patches(np.stack([np.zeros((1, 100)), np.ones((1, 100))]), [(0, 0), (0, 40)], (1, 140))
    steps = np.diff(stitched[0])
    assert stitched[0, :40].max() == 0 and stitched[0, 100:].min() == 1
    assert steps.min() >= 0 and steps.max() < 0.05


def test_a_hundred_rolls_in_under_a_second():
    rolls = [np.zeros((256, 4096), np.uint8) for _ in range(100)]
    started = time.perf_counter()
    assert sum(len(extract_patches(roll)[0]) for roll in rolls) == 1600
    assert time.perf_counter() - started < 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [((0,), "size: 0"), ((8, 0), "stride: 0"), ((8, 9, "cover"), "stride: 9"), ((8, 8, "keep"), "remainder: 'keep'")],
)
def test_impossible_cuts_are_named(arguments, said):
    with pytest.raises(InputError, match=said):
        patch_columns((0, 100), *arguments)
