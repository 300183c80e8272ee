"""A user's own images as `load` gives them: splits, classes and paths."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.common import error_of
from vae_jax import datasets
from vae_jax.runtime.output_record import OUTPUT_MARKER


def make_images(folder: Path, count: int = 6, first: int = 0) -> None:
    """Gray images of one value each, which identifies them, except one white pixel."""
    folder.mkdir(parents=True, exist_ok=True)
    for value in range(first, first + count):
        image = Image.new("L", (4, 3), value)
        image.putpixel((3, 2), 255)
        image.save(folder / f"{value:03d}.png")


@pytest.fixture
def data_dir(tmp_path):
    return tmp_path / "data"


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    make_images(folder)
    return folder


@pytest.fixture
def load(photos, data_dir):
    def load_images(path=photos, **fields):
        sizes = {"validation_size": 2, "test_size": 1}
        return datasets.load("images", str(data_dir), path=str(path), **sizes | fields)

    return load_images


def values(split):
    return np.asarray(split.images)[:, 0, 0, 0].tolist()


def splits_of(dataset):
    return dataset.train, dataset.validation, dataset.test


def test_the_shuffle_never_changes(load):
    # Pinned: another order is another test set.
    dataset = load()
    assert dataset.name == "images" and dataset.image_shape == (3, 4, 1)
    assert values(dataset.test) == [5] and values(dataset.validation) == [1, 4]
    assert sorted(values(dataset.train)) == [0, 2, 3]
    assert dataset.train.labels is None and dataset.class_names == ()
    assert values(load(test_size=2).test) == [5, 1]
    assert dataset.sha256 == load(binarization="dynamic").sha256
    assert dataset.sha256 != load(validation_size=1).sha256
    assert load(image_size=(5, 2), channels=3).image_shape == (5, 2, 3)
    message = error_of(load, validation_size=3, test_size=3)
    assert "data.test_size 3 and data.validation_size 3 must leave at least 1 of the 6" in message


@pytest.mark.parametrize("wrap", ["", "photos/all"])
@pytest.mark.parametrize("names", [("Training", "VALID", "testing"), ("train", "validation")])
def test_folders_that_are_splits(load, tmp_path, wrap, names):
    root = tmp_path / "splits"
    for number, name in enumerate(names):
        make_images(root / wrap / name / "a", 3 - number, 10 * number)
        make_images(root / wrap / name / "b", 3, 10 * number + 5)
    dataset = load(root)
    assert dataset.class_names == ("a", "b")
    assert values(dataset.validation) == [10, 11, 15, 16, 17]
    assert dataset.validation.labels.tolist() == [0, 0, 1, 1, 1]
    if len(names) == 3:
        assert values(dataset.train) == [0, 1, 2, 5, 6, 7]
        assert values(dataset.test) == [20, 25, 26, 27]
        assert dataset.test.names[0] == os.path.join(wrap, names[2], "a", "020.png")
    else:
        assert sorted(values(dataset.train) + values(dataset.test)) == [0, 1, 2, 5, 6, 7]


def test_splits_without_classes(load, tmp_path):
    make_images(tmp_path / "splits" / "train", 3)
    make_images(tmp_path / "splits" / "test", 2, 10)
    dataset = load(tmp_path / "splits", validation_size=1)
    assert dataset.class_names == () and dataset.train.labels is None
    assert values(dataset.test) == [10, 11]
    for split in ("train", "test"):
        paths = [*(tmp_path / "splits" / split).iterdir()]
        contents = [path.read_bytes() for path in paths]
        for path in paths:
            path.write_bytes(b"")
        message = error_of(load, tmp_path / "splits", validation_size=1, skip_damaged=True)
        assert f"all {split} images are damaged" in message
        for path, content in zip(paths, contents, strict=True):
            path.write_bytes(content)


def test_subfolders_are_classes(load, tmp_path, capfd):
    root = tmp_path / "classes"
    make_images(root / "b é", 3, 10)
    make_images(root / "a\n" / "deep" / "er", 3, 20)
    (root / "empty").mkdir()
    for fields in ({}, {"skip_damaged": True}):
        dataset = load(root, **fields)
        assert dataset.class_names == ("a\n", "b é")
        for split in splits_of(dataset):
            assert split.labels.tolist() == [{1: 1, 2: 0}[value // 10] for value in values(split)]
            assert split.labels.dtype == np.int32
        (root / "b é" / "011.png").write_bytes(b"")  # labels follow their images
    assert "1 of 6 images cannot be read" in capfd.readouterr().err


@pytest.mark.parametrize("names", [("train", "car"), ("val", "test"), ("train", "val", "other")])
def test_other_folders_are_classes(load, tmp_path, names):
    for number, name in enumerate(names):
        make_images(tmp_path / "all" / "photos" / name, 3, 10 * number)
    assert load(tmp_path / "all").class_names == tuple(sorted(names))
    make_images(tmp_path / "one" / "a", 6)
    assert load(tmp_path / "one").class_names == ("a",)


def test_images_in_subfolders_and_beside_them(load, photos):
    make_images(photos / "more", 1)
    message = error_of(load)
    assert "'000.png'" in message and "'more/000.png'" in message


def test_files_and_folders_of_systems_are_ignored(load, tmp_path):
    root = tmp_path / "classes"
    make_images(root / "a", 3)
    make_images(root / "b", 3, 10)
    expected = load(root).sha256
    for name in (".thumbnails", "@eaDir", "__MACOSX"):
        make_images(root / name, 1)
        make_images(root / "a" / name, 1)
    for name in (".DS_Store", "._000.png", "Thumbs.db", "notes.txt"):
        (root / name).write_bytes(b"no image")
    dataset = load(root)
    assert dataset.class_names == ("a", "b") and dataset.sha256 == expected


@pytest.mark.parametrize("file", ["metrics.csv", "weights.safetensors"])
def test_runs_and_output_are_never_data(load, photos, file):
    expected = load().sha256
    make_images(photos / "runs" / "first" / "samples", 4, 50)
    (photos / "runs" / "first" / "config.json").touch()
    (photos / "runs" / "first" / file).mkdir()
    make_images(photos / "marked" / "reconstructions", 4, 50)
    (photos / "marked" / OUTPUT_MARKER).touch()
    assert load().sha256 == expected
    for folder in ("runs/first", "runs", "marked"):
        assert "the output of modes are ignored" in error_of(load, photos / folder)


def test_one_image_file(load, photos, data_dir, tmp_path):
    def read(path, **fields):
        options = datasets.DataOptions(data_dir=str(data_dir), **fields)
        return datasets.read_images(str(path), options)

    splits, class_names = read(photos / "003.png")
    assert values(splits["all"]) == [3] and class_names == () and splits["all"].labels is None
    assert splits["all"].names.tolist() == ["003.png"]
    (tmp_path / "link.PNG").symlink_to(photos / "003.png")
    assert values(read(tmp_path / "link.PNG", image_size=(3, 2))[0]["all"]) == [3]
    assert "of the 1 images of" in error_of(load, photos / "003.png")


def test_paths_that_hold_no_images(load, tmp_path):
    for path in (tmp_path / "no\nwhere", "a\0b"):
        assert "no such file or folder" in error_of(load, path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("no image")
    assert "neither a folder of images" in error_of(load, tmp_path / "empty" / "notes.txt")
    assert "no file named .png" in error_of(load, tmp_path / "empty")


def test_links_are_followed_and_circles_end(load, photos, tmp_path):
    expected = load().sha256
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "class").symlink_to(photos)
    (photos / "back").symlink_to(tmp_path / "links")
    dataset = load(tmp_path / "links")
    assert dataset.class_names == ("class",) and len(dataset.train) == 3
    assert load().sha256 == expected
