import numpy as np
import pytest

from draem_aitex.errors import InputError
from draem_aitex.patcher import extract_patches, patch_columns, patch_maxima, stitch_patches


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
