"""Images of one's own: every layout, any mask, any size, files as cameras and people make them."""

import json
import zlib

import cv2
import numpy as np
import pytest
import torch
from PIL import ExifTags, Image
from test_cli import fails_with_one_line
from test_export import runner

from draem_aitex import evaluate, load_detector, load_folder
from draem_aitex.anomalies.augmenter import AugmenterConfig
from draem_aitex.cli.main import main
from draem_aitex.data import aitex
from draem_aitex.data.fabric_edges import thread_pitch
from draem_aitex.data.images import files_in
from draem_aitex.data.masks import read_mask_file
from draem_aitex.data.rolls import load_roll, load_rolls
from draem_aitex.detectors.base import Detector
from draem_aitex.detectors.calibration import Threshold
from draem_aitex.errors import InputError
from draem_aitex.evaluation import synthetic
from draem_aitex.evaluation.synthetic import with_anomaly
from draem_aitex.training.sampler import CropSampler

MASK = np.zeros((40, 60), bool)
MASK[10:20, 10:30] = True
BANK = "--backbone", "fft", "--bank-size", "20", "--pool-size", "100"
LEVEL = Threshold(0.5, 0.01, 0.01, 99, 1)


def cloth(height=40, width=60, seed=0):
    """Plain cloth: noise without a repeat."""
    return np.random.default_rng(seed).integers(90, 130, (height, width)).astype(np.uint8)


def put(path, image=None, **options):
    """Write an image, by Pillow, into a folder that is made if need be; returns its path. None: one of its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = cloth(seed=zlib.crc32("/".join(path.parts[-3:]).encode())) if image is None else image
    Image.fromarray(image).save(path, **options)
    return path


def names(records):
    return [record.name for record in records]


def parts(data):
    return {part: names(getattr(data, part)) for part in ("train", "calibration", "development", "test")}


def test_the_layout_of_mvtec(tmp_path):
    root = tmp_path / "My cloth"
    for number in range(6):
        put(root / f"Train/Good/{number}.PNG")
    for path in ("test/good/0.png", "test/oil stain/0.png", "test/oil stain/1.png", "test/cut/0.jpg"):
        put(root / path)
    for path in ("ground_truth/Oil Stain/0_mask.png", "ground_truth/cut/0_mask.png"):
        put(root / path, MASK)
    data = load_folder(root)
    assert data.source == "own pictures: My cloth" and "the fourth is calibration" in data.rule
    train = [f"Train/Good/{number}.PNG" for number in (0, 1, 2, 4, 5)]
    test = ["test/good/0.png", "test/cut/0.jpg", "test/oil stain/0.png", "test/oil stain/1.png"]
    assert parts(data) == {"train": train, "calibration": ["Train/Good/3.PNG"], "development": [], "test": test}
    assert [(record.defect, len(record.masks)) for record in data.test] == [
        ("000", 0), ("cut", 1), ("oil stain", 1), ("oil stain", 0),
    ]  # fmt: skip
    assert data.quirks == ("1 defective images without a mask; image level only: test/oil stain/1.png",)
    put(root / "validation/good/v.png")
    assert parts(load_folder(root))["calibration"] == ["validation/good/v.png"]


def test_good_bad_and_masks_without_regard_to_case_and_with_subfolders(tmp_path):
    for number in range(5):
        put(tmp_path / f"GOOD/shift {number % 2}/ä {number}.png")
    put(tmp_path / "Bad/stain/1.png")
    put(tmp_path / "Bad/2.png")
    put(tmp_path / "MASKS/stain/1.png", MASK)
    put(tmp_path / "MASKS/2_GT.png", MASK)
    put(tmp_path / "other/3.png")
    (tmp_path / "notes.txt").write_text("x")
    data = load_folder(tmp_path)
    assert [(record.name, record.defect, len(record.masks)) for record in data.test if not record.is_normal] == [
        ("Bad/2.png", "bad", 1), ("Bad/stain/1.png", "stain", 1),
    ]  # fmt: skip
    assert len(data.train) == 3 and len(data.calibration) == 1
    assert data.quirks == (
        "1 no images; not used: notes.txt", "1 images in no folder of this layout; not used: other/3.png",
    )  # fmt: skip


def test_a_mask_beside_a_normal_image_is_no_image(tmp_path):
    put(tmp_path / "good/1.png")
    put(tmp_path / "good/1_mask.png", np.zeros_like(MASK))
    assert names(load_folder(tmp_path).records) == ["good/1.png"]


def test_normal_images_alone_are_judged_on_synthetic_anomalies(tmp_path):
    for number in range(5):
        put(tmp_path / f"day {number}/a.png")
    data = load_folder(tmp_path)
    assert "synthetic anomalies" in data.rule
    assert [(record.name, record.defect) for record in data.test] == [
        ("day 4/a.png", "000"), ("day 4/a.png", "synthetic"),
    ]  # fmt: skip


class Differences(Detector):
    """Scores 0.9 where an image differs from the one of its size that is known, 0.1 elsewhere."""

    name = "differences"

    def __init__(self, known):
        super().__init__()
        self.known = {image.shape: image for image in known}

    def raw_map(self, image, edges, fabric=None):
        return np.where(image == self.known[image.shape], np.float32(0.1), np.float32(0.9))


def test_the_figures_of_normal_images_alone(tmp_path):
    """Judged by a detector that sees exactly what was changed: every figure is known beforehand."""
    for number in range(10):
        put(tmp_path / f"{number}.png", cloth(100 + number, 160 - number, seed=number))
    data = load_folder(tmp_path)
    normal, marked = load_rolls(data.test[:2]), []
    assert names(data.test) == ["4.png", "9.png"] * 2
    evaluation = evaluate(Differences([roll.image for roll in normal]), data.test, threshold=LEVEL, quiet=True)
    for roll, record in zip(normal, data.test, strict=False):
        changed = with_anomaly(roll, record.number)
        marked.append(np.stack([changed.mask, changed.image != roll.image], axis=-1).reshape(-1, 2))
    figures, (mask, seen) = evaluation.figures(), np.concatenate(marked).T
    assert (figures["rolls"], figures["positive_rolls"]) == (4, 2)
    assert (figures["patches"], figures["positive_patches"], figures["fabric_columns_in_no_patch"]) == (4, 2, 0)
    assert figures["patch_auroc"] == figures["roll_auroc"] == figures["hit_rate"] == 1
    assert figures["pixel_recall"] == pytest.approx(seen[mask].mean()) and figures["false_positive_regions"] == 0
    assert figures["pixel_precision"] == pytest.approx(mask[seen].mean()) and mask[seen].mean() > 0.9
    assert figures["source"] is None and list(figures["by_defect"]) == ["synthetic"]
    for words in (
        "4 images are no larger than a patch and their own",
        "No real defects: judged on synthetic anomalies",
    ):
        assert words in str(evaluation)


def test_an_image_on_which_no_anomaly_can_be_seen_stays_normal(tmp_path, monkeypatch):
    monkeypatch.setattr(synthetic, "TRIES", 0)
    put(tmp_path / "a.png")
    roll = load_roll(load_folder(tmp_path).records[0])
    assert with_anomaly(roll, 0) is roll and roll.defect == "000"


@pytest.mark.parametrize("extra", ["test/stain/1.png", "bad/1.png", "1_mask.png", "ground_truth/1.png"])
def test_a_defective_image_never_silently_becomes_normal(tmp_path, extra):
    put(tmp_path / "1.png")
    put(tmp_path / extra, MASK)
    with pytest.raises(InputError, match=f"{extra}, but no images known to be normal; expected train/good"):
        load_folder(tmp_path)


def test_a_normal_image_whose_mask_marks_something_is_refused(tmp_path):
    put(tmp_path / "good/1.png")
    put(tmp_path / "masks/1.png", np.zeros_like(MASK))
    assert load_roll(load_folder(tmp_path).train[0]).mask.sum() == 0
    put(tmp_path / "masks/1.png", MASK)
    with pytest.raises(InputError, match="good/1.png: filed as normal, but .* marks 200 pixels of it"):
        load_folder(tmp_path)


def test_aitex_is_recognised(small_set):
    data = load_folder(small_set)
    assert data == aitex.load_aitex(small_set)
    with pytest.raises(InputError, match="an AITEX folder, in grey"):
        load_folder(small_set, channels=3)


@pytest.mark.parametrize(
    "name",
    ["c.png", "c_mask.png", "c_gt.png", "C_LABEL.tif", "c-mask.png", "c_mask1.png", "c.jpg.png", "c.jpg_mask.png",
     "c_ground_truth.bmp"],
)  # fmt: skip
def test_names_of_masks(tmp_path, name):
    put(tmp_path / "good/g.png")
    put(tmp_path / "bad/c.jpg")
    put(tmp_path / "masks" / name, MASK)
    assert load_roll(load_folder(tmp_path).test[0]).mask.sum() == 200


def test_a_mask_is_that_of_the_defective_image_where_a_normal_one_has_its_name_too(tmp_path):
    """As where a camera counted from 1 again."""
    for path in ("good/1.png", "good/2.png", "bad/1.png"):
        put(tmp_path / path)
    put(tmp_path / "masks/1.png", MASK)
    put(tmp_path / "masks/2.png", np.zeros_like(MASK))
    data = load_folder(tmp_path)
    assert {record.name: len(record.masks) for record in data.records} == {
        "good/1.png": 0, "good/2.png": 1, "bad/1.png": 1,
    }  # fmt: skip
    assert data.quirks == () and load_roll(data.test[0]).mask.sum() == 200


def test_several_masks_are_joined_and_masks_may_lie_beside_their_image(tmp_path):
    put(tmp_path / "good/g.png")
    put(tmp_path / "bad/c.png")
    put(tmp_path / "bad/c_mask1.png", MASK)
    put(tmp_path / "bad/c_mask2.png", np.roll(MASK, 15, axis=0))
    assert names(load_folder(tmp_path).test) == ["bad/c.png"]
    assert load_roll(load_folder(tmp_path).test[0]).mask.sum() == 400


def masks():
    """One mask, drawn in every way: name to image and options."""
    one = MASK.astype(np.uint8)
    classes, levels, deep = one * 1, one * 85, one.astype(np.uint16)
    classes[12:15, 12:18], levels[12:15, 12:18], deep[12:15, 12:18] = 3, 255, 1000
    palette, white = Image.fromarray(one, mode="P"), Image.fromarray(one, mode="P")
    palette.putpalette([0, 0, 0, 128, 0, 0])
    white.putpalette([255, 255, 255, 200, 0, 0])
    red = np.full((*MASK.shape, 3), 255, np.uint8)
    red[MASK] = 255, 0, 0
    seen = np.dstack([np.full((*MASK.shape, 3), 255, np.uint8), one * 255])
    smooth = cv2.GaussianBlur(one * 255, (0, 0), 0.8)
    found = {
        "0 and 1.png": one, "0 and 255.png": one * 255, "0 and 65535.tif": one.astype(np.uint16) * 65535,
        "bit.png": MASK, "bit.bmp": MASK, "class index.png": classes, "levels.png": levels, "16 bit index.png": deep,
        "two greys.png": one * 127 + 100, "colour.png": np.dstack([one * 255, one * 0, one * 0]), "on white.png": red,
        "alpha.png": seen, "smooth.png": smooth, "grey.jpg": one * 255,
        "colour.jpg": np.dstack([one * 255, one * 0, one]),
    }  # fmt: skip
    images = {name: Image.fromarray(image) for name, image in found.items()}
    return {**images, "palette.png": palette, "palette, white.png": white}


@pytest.mark.parametrize("name", masks())
def test_any_mask_counts_what_is_not_background(tmp_path, name):
    path = tmp_path / name
    masks()[name].save(path)
    found = read_mask_file(path)
    assert found.dtype == bool and np.array_equal(found, MASK), found.sum()


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (np.zeros_like(MASK), "an empty mask for a defective image"),
        (np.ones_like(MASK), "a mask that covers 100% of its image"),
        (~MASK[:, :59], "mask of 59 x 40 pixels for an image of 60 x 40"),
        (np.pad(~MASK[18:20, 28:30], ((18, 20), (28, 30)), constant_values=True), "covers 100% .*wrong way round"),
    ],
)
def test_a_mask_that_cannot_be_true_is_named(tmp_path, mask, words, capsys):
    put(tmp_path / "good/g.png")
    put(tmp_path / "bad/c.png")
    path = put(tmp_path / "masks/c.png", mask)
    with pytest.raises(InputError, match=f"c.png: .*{words}"):
        load_folder(tmp_path)
    fails_with_one_line(capsys, ["train", "--data", tmp_path, "--out", tmp_path / "x.pt", "--steps", "1"], path)


def test_a_jpeg_too_dark_for_a_mask_is_named(tmp_path):
    with pytest.raises(InputError, match="m.jpg: a JPEG mask with grey levels up to ., which .* expected 64 or more"):
        read_mask_file(put(tmp_path / "m.jpg", MASK.astype(np.uint8) * 2))


def test_what_systems_leave_is_passed_over_and_links_are_followed(tmp_path):
    for name in ("._a.png", ".DS_Store", "Thumbs.db", "desktop.ini", "__MACOSX/a.png", ".git/x.png"):
        put(tmp_path / "good/a.png").parent.joinpath(name).parent.mkdir(exist_ok=True)
        (tmp_path / "good" / name).write_bytes(b"no image")
    put(tmp_path / "elsewhere/deep/b.png")
    (tmp_path / "good/linked").symlink_to(tmp_path / "elsewhere")
    found = [path.relative_to(tmp_path).as_posix() for path in files_in(tmp_path / "good")]
    assert found == ["good/a.png", "good/linked/deep/b.png"]


def test_verify_follows_links(small_set, tmp_path, capsys):
    for path in small_set.iterdir():
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / "._junk").write_bytes(b"")
    tables = []
    for folder in (small_set, tmp_path):
        assert main(["verify", "--data", str(folder)]) == 1  # simulated: none is AITEX's
        tables.append(capsys.readouterr().out.replace(str(folder), ""))
    assert tables[0] == tables[1] and "0 unknown" not in tables[0]


def test_bit_depth_is_that_of_all_images_together(tmp_path):
    grey = cloth().astype(np.uint16)
    put(tmp_path / "good/a.png", grey * 31)  # up to 4000 of 4095
    put(tmp_path / "good/b.png", grey * 3)  # a darker image, not a shallower one
    data = load_folder(tmp_path)
    light, dark = (load_roll(record).image.astype(float) for record in data.records)
    assert np.abs(dark - light * 3 / 31).max() <= 1.1
    assert data.quirks == ("16-bit images are taken to use 12 bits, and stretched by these (--bit-depth says others)",)
    assert load_roll(load_folder(tmp_path, bit_depth=16).records[0]).image.max() == 4000 // 257
    with pytest.raises(InputError, match="bit_depth: 9; expected one of None, 8, 10, 12, 14, 16"):
        load_folder(tmp_path, bit_depth=9)


def test_colour_is_computed_to_grey_or_kept(tmp_path):
    colour = np.dstack([cloth(seed=seed) for seed in range(3)])
    put(tmp_path / "good/a.png", colour)
    put(tmp_path / "good/b.png", cloth())
    data = load_folder(tmp_path)
    assert data.quirks == ("1 of 2 images are stored in colour; grey levels are computed (--channels 3 keeps colours)",)
    assert np.array_equal(load_roll(data.records[0]).image, cv2.cvtColor(colour, cv2.COLOR_RGB2GRAY))
    kept = load_rolls(load_folder(tmp_path, channels=3).records)
    assert np.array_equal(kept[0].image, colour) and np.array_equal(kept[1].image, np.dstack([cloth()] * 3))
    crops = CropSampler(kept, 32, "cpu", None, 3)(8, torch.Generator().manual_seed(0))
    assert crops.shape == (8, 3, 32, 32) and (crops[:, 0] != crops[:, 1]).any()


def test_crops_of_images_of_any_size(tmp_path):
    """Each image has a tone of its own, so a crop that crosses from one to another would show."""
    for number, (height, width) in enumerate([(20, 30), (700, 90), (64, 300), (128, 128)]):
        put(tmp_path / f"good/{number}.png", np.full((height, width), 40 + 50 * number, np.uint8))
    rolls = load_rolls(load_folder(tmp_path).records)
    sampler = CropSampler(rolls, 64, "cpu")
    crops = sampler(200, torch.Generator().manual_seed(0))
    assert (crops.amax((1, 2, 3)) == crops.amin((1, 2, 3))).all()
    assert set((255 * crops[:, 0, 0, 0]).round().int().tolist()) == {40, 90, 140, 190}


def test_every_pixel_of_any_size_is_in_a_patch(tmp_path):
    sizes = [(30, 50), (256, 256), (300, 700), (40, 600)]
    for number, size in enumerate(sizes):
        put(tmp_path / f"good/{number}.png", cloth(*size))
    detector = load_detector("compact_loom", quiet=True)
    scores = detector.raw_patch_scores(rolls := load_rolls(load_folder(tmp_path).records))
    assert [len(found) for found in scores] == [1, 1, 6, 3]
    for found, scored in zip(scores, detector.raw_maps(rolls), strict=True):
        assert found.max() == scored.max()


def test_a_weave_has_a_pitch_and_plain_cloth_has_none(simulated):
    roll = load_roll(aitex.load_aitex(simulated).train[0])
    woven = roll.image[:, 2000:2300]
    assert 3 < thread_pitch(woven) < 25
    assert thread_pitch(cloth(200, 300)) is None and thread_pitch(np.full((64, 64), 255, np.uint8)) is None
    for images, kinds, words in (
        (
            [woven] * 2,
            set(AugmenterConfig().weights),
            "a weave found in 2 of 2 images, all kinds; sizes for images of 256",
        ),
        (
            [cloth(64, 300)],
            set(AugmenterConfig().weights) - {"thread", "slip"},
            "in 0 of 1 images, without thread and slip",
        ),
    ):
        config, said = AugmenterConfig.for_images(images)
        assert set(config.weights) == kinds and words in said
    assert config.scale == 0.25


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder of images of several sizes without a weave, and a checkpoint hardly trained on it."""
    root = tmp_path_factory.mktemp("own")
    for number, size in enumerate([(80, 200), (130, 140), (300, 100), (90, 90), (64, 64)]):
        put(root / f"train/good/{number}.png", cloth(*size, seed=number))
    put(root / "test/good/0.png", cloth(70, 90))
    put(root / "test/hole/0.png", np.where(MASK, 250, cloth()).astype(np.uint8))
    put(root / "ground_truth/hole/0_mask.png", MASK)
    path = root.parent / "own.pt"
    train = ["train", "--data", str(root), "--out", str(path), "--steps", "2", "--batch", "2", "--crop", "64"]
    assert main(train) == 0
    return root, path


def test_every_command_takes_a_checkpoint_of_own_pictures(trained, tmp_path, capsys):
    root, path = trained
    evaluate_it = ["evaluate", "--data", str(root), "--checkpoint", str(path), "--json", str(tmp_path / "f.json")]
    assert main([*evaluate_it, "--report", str(tmp_path / "r.html")]) == 0
    figures = json.loads((tmp_path / "f.json").read_text())
    assert figures["source"] == f"own pictures: {root.name}" and figures["n_test_rolls"] == 2
    assert figures["patches"] == 2 and figures["positive_patches"] == 1 and figures["fabric_columns_in_no_patch"] == 0
    assert main(["inspect", str(root / "test/hole"), "--checkpoint", str(path), "--out", str(tmp_path / "maps")]) == 0
    printed = capsys.readouterr()
    assert "scored as is" not in printed.err and "judged as a whole" not in printed.err
    assert main(["info", str(path)]) == 0
    assert "own pictures" in capsys.readouterr().out
    detector = load_detector(path, quiet=True)
    assert not detector.reading.find_edges and detector.about["rule"] == load_folder(root).rule
    assert evaluate(detector, load_folder(root).test, quiet=True).source == f"own pictures: {root.name}"


@pytest.mark.parametrize("baseline", [["vae", "--steps", "2"], ["patchcore", *BANK]])
def test_baselines_take_own_pictures(baseline, trained, tmp_path, capsys):
    root, path = trained[0], tmp_path / "baseline.pt"
    assert main(["fit", *baseline, "--data", str(root), "--out", str(path)]) == 0
    assert f"own pictures: {root.name}" in capsys.readouterr().out
    found = tmp_path / "f.json"
    assert main(["evaluate", "--data", str(root), "--checkpoint", str(path), "--json", str(found)]) == 0
    figures = json.loads(found.read_text())
    assert (figures["n_test_rolls"], figures["patches"], figures["defects"]) == (2, 2, 1)
    assert main(["inspect", str(root / "test"), "--checkpoint", str(path), "--out", str(tmp_path / "maps")]) == 0
    assert np.load(tmp_path / "maps/good/0.npy").shape == (70, 90)


@pytest.mark.parametrize("what", ["white", "black", "grey", "noise", "glossy"])
def test_what_has_no_weave_is_judged_as_a_whole(what, trained, tmp_path, capsys):
    """No edges are looked for, nothing is refused, every pixel has a score."""
    noise = np.random.default_rng(0).integers(0, 256, (70, 90))
    glossy = np.minimum(400 * np.linspace(0, 1, 90) ** 3 + np.zeros((70, 90)), 255)  # over-exposed to the right
    image = {"white": noise * 0 + 255, "black": noise * 0, "grey": noise * 0 + 128, "noise": noise, "glossy": glossy}
    path, out = put(tmp_path / "a.png", image[what].astype(np.uint8)), tmp_path / "out"
    inspect = ["inspect", str(path), "--checkpoint", str(trained[1]), "--out", str(out), "--json", str(out / "f.json")]
    assert main(inspect) == 0
    assert f"note: {path}" not in capsys.readouterr().err
    scores, (record,) = np.load(out / "a.npy"), json.loads((out / "f.json").read_text())["images"]
    assert scores.shape == (70, 90) and (scores > 0).all() and record["edges"] == [0, 90]


def test_a_photograph_that_was_turned_has_its_mask_as_it_is_seen(tmp_path):
    """As many cameras store it: the sensor's pixels, and how to turn them."""
    seen = cloth(60, 40)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # to be turned by a quarter, clockwise
    put(tmp_path / "good/a.png", cloth(60, 40, seed=1))
    put(tmp_path / "bad/b.png", np.rot90(seen).copy(), exif=exif)
    put(tmp_path / "masks/b.png", MASK.T.copy())
    roll = load_roll(load_folder(tmp_path).test[-1])
    assert np.array_equal(roll.image, seen) and np.array_equal(roll.mask, MASK.T)


@pytest.fixture(scope="module")
def in_colour(tmp_path_factory):
    """A detector of colour, hardly trained on a folder in which a defect has another colour and the same grey."""
    root, rng = tmp_path_factory.mktemp("colour"), np.random.default_rng(0)
    for name in (*(f"good/{number}.png" for number in range(5)), "bad/0.png"):
        image = np.dstack([cloth(80, 120, seed=rng.integers(1000))] * 3)
        if name.startswith("bad"):
            image[:40, :60][MASK] = 200, 90, 60  # grey level 119
        put(root / name, image)
    put(root / "masks/0.png", np.pad(MASK, ((0, 40), (0, 60))))
    path = root.parent / "colour.pt"
    train = ["train", "--data", str(root), "--out", str(path), "--channels", "3", "--steps", "2", "--batch", "2"]
    assert main([*train, "--crop", "64"]) == 0
    return root, path


def test_colour_from_the_folder_to_the_report(in_colour, tmp_path, capsys):
    root, path = in_colour
    detector = load_detector(path, quiet=True)
    assert detector.reading.channels == detector.model.config.channels == 3
    files = ["--json", str(tmp_path / "f.json"), "--report", str(tmp_path / "r.html")]
    assert main(["evaluate", "--data", str(root), "--checkpoint", str(path), *files]) == 0
    assert "6 of 6 images are stored in colour; colours are kept" in capsys.readouterr().out
    assert json.loads((tmp_path / "f.json").read_text())["positive_patches"] == 1
    image = np.array(Image.open(root / "bad/0.png"))
    by_file, by_array, other = (detector.predict(what) for what in (root / "bad/0.png", image, image[..., ::-1].copy()))
    assert np.array_equal(by_file.map, by_array.map) and np.abs(by_file.map - other.map).max() > 1e-6
    grey = put(tmp_path / "grey.png", cloth(80, 120))
    repeated = detector.predict(np.dstack([cloth(80, 120)] * 3))
    assert np.array_equal(detector.predict(grey).map, repeated.map) and repeated.overlay.shape == (80, 120, 3)


def test_colour_in_onnx(in_colour, tmp_path):
    """The planes keep their order: another one gives another map."""
    pytest.importorskip("onnx", reason="onnx is not installed: nothing to write ONNX with")
    root, path = in_colour
    assert main(["export", str(path), str(tmp_path / "colour.onnx")]) == 0
    session, detector = runner(tmp_path / "colour.onnx"), load_detector(path, quiet=True)
    assert "(H, W, 3), RGB" in session.get_modelmeta().custom_metadata_map["pixels"]
    whole = np.array(Image.open(root / "bad/0.png"))
    for image in (whole, whole[:33, :50], whole[:, :, ::-1]):
        image = np.ascontiguousarray(image)
        (scores,) = session.run(None, {"image": image, "fabric": np.array([0])})
        assert scores.shape == image.shape[:2] and np.abs(scores - detector.predict(image).map).max() < 1e-4


def test_how_many_calibration_images_are_needed_is_said_before_training(trained, capsys, tmp_path):
    root, _ = trained
    out = str(tmp_path / "bank.pt")
    train = ["train", "--data", str(root), "--out", out, "--steps", "1", "--batch", "2", "--crop", "64"]
    assert main(train) == 0
    said = capsys.readouterr()
    promised = "1 calibration images hold 1 patches, which promise a false-positive rate of 50.0%; for 1% it takes 99"
    assert promised in said.err
    kinds = "synthetic anomalies: a weave found in 0 of 4 images, without thread and slip; sizes for images of 90 px"
    assert kinds in said.out and "first weights: those of compact_aitex" in said.out
