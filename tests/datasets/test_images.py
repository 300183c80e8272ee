"""A user's own images as `load` gives them: splits, classes, bad paths, what is kept on disk."""

import errno
import os
import pathlib
import signal
import tracemalloc
import types

import numpy as np
import pytest
from PIL import Image

from tests.support.common import error_of
from vae_jax import datasets
from vae_jax.datasets import image_cache, image_files, image_folder
from vae_jax.runtime import interrupts


def make_images(folder: pathlib.Path, count: int = 6, first: int = 0) -> None:
    """Gray images of one value each, by which they are told; but for one white pixel."""
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
    return split.images[:, 0, 0, 0].tolist()


# Splits.


def test_a_folder(load):
    dataset = load()
    assert dataset.name == "images" and dataset.image_shape == (3, 4, 1)
    assert [len(split) for split in (dataset.train, dataset.validation, dataset.test)] == [3, 2, 1]
    everything = [*values(dataset.train), *values(dataset.validation), *values(dataset.test)]
    assert sorted(everything) == [*range(6)]
    assert dataset.train.labels is None and dataset.class_names == ()


def test_the_shuffle_never_changes(load):
    # Pinned: another order is another test set.
    dataset = load()
    assert values(dataset.test) == [5] and values(dataset.validation) == [1, 4]
    assert values(load(test_size=2).test) == [5, 1]
    assert dataset.sha256 == load().sha256
    assert dataset.sha256 != load(validation_size=1).sha256


@pytest.mark.parametrize("sizes", [(3, 3), (5_000, 1), (0, 1), (1, -1)])
def test_sizes_of_splits_that_cannot_be(load, sizes):
    message = error_of(load, validation_size=sizes[0], test_size=sizes[1])
    assert f"data.test_size {sizes[1]} and data.validation_size {sizes[0]}" in message
    assert "the 6 images" in message


def test_binarized(load):
    dataset = load(binarization="dynamic")
    assert dataset.sha256 == load().sha256
    assert set(np.unique(dataset.validation.images)) <= {0, 255}


def test_size_and_channels(load):
    assert load(image_size=(5, 2), channels=3).image_shape == (5, 2, 3)


# Classes.


def test_subfolders_are_classes(load, tmp_path):
    root = tmp_path / "classes"
    make_images(root / "b é", 2, 10)
    make_images(root / "a\n" / "deep" / "er", 3, 20)
    (root / "empty").mkdir()
    os.makedirs(os.fsencode(root) + b"/c\xff")
    make_images(root / os.fsdecode(b"c\xff"), 1, 30)
    dataset = load(root)
    assert dataset.class_names == ("a\n", "b é", "c\\udcff")
    for split in (dataset.train, dataset.validation, dataset.test):
        assert split.labels.tolist() == [{10: 1, 20: 0, 30: 2}[v // 10 * 10] for v in values(split)]
        assert split.labels.dtype == np.int32


def test_images_in_subfolders_and_beside_them(load, photos):
    make_images(photos / "more", 1)
    message = error_of(load)
    assert "'000.png'" in message and "'more/000.png'" in message


def test_hidden_files_are_not_looked_at_others_counted(load, photos, capfd):
    for name in (".DS_Store", "._000.png", "Thumbs.db", "desktop.ini"):
        (photos / name).write_bytes(b"hidden")
    make_images(photos / ".thumbnails", 1)
    expected = load().sha256
    assert capfd.readouterr().err == ""
    (photos / "notes.txt").write_text("no image")
    os.mkfifo(photos / "pipe.png")
    assert load().sha256 == expected
    assert capfd.readouterr().err == f"'{photos}': 2 files are no images by name\n"


def test_names_are_as_they_are(tmp_path):
    names = ["b\u202fé.png", "c\u3000\n.png", os.fsdecode(b"d\xff.png")]
    make_images(tmp_path / "screen\u00a0shots", 3)
    for old, new in zip(["000.png", "001.png", "002.png"], names, strict=True):
        (tmp_path / "screen\u00a0shots" / old).rename(tmp_path / "screen\u00a0shots" / new)
    splits, class_names = datasets.read_images(str(tmp_path))
    assert class_names == ("screen\u00a0shots",)
    found = [name.removeprefix("screen\u00a0shots/") for name in splits["all"].names]
    assert found == ["b\u202fé.png", "c\u3000\n.png", "d\\udcff.png"]
    np.savez(tmp_path / "names.npz", names=splits["all"].names)
    assert np.load(tmp_path / "names.npz")["names"].tolist() == splits["all"].names.tolist()
    "".join(found).encode()


def test_folders_of_systems_are_no_classes(load, tmp_path, capfd):
    root = tmp_path / "classes"
    make_images(root / "a", 3)
    make_images(root / "b", 3, 10)
    expected = load(root).sha256
    for name in ("@eaDir", "__MACOSX", "$RECYCLE.BIN", "lost+found", "System Volume Information"):
        make_images(root / name, 1)
        make_images(root / "a" / name, 1)
    dataset = load(root)
    assert dataset.class_names == ("a", "b") and dataset.sha256 == expected
    assert capfd.readouterr().err == ""


# Folders that are splits, and folders that say nothing.


@pytest.mark.parametrize("wrap", ["", "photos/all"])
@pytest.mark.parametrize(
    "names", [("train", "val", "test"), ("Training", "VALID", "testing"), ("train", "validation")]
)
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


def test_splits_without_classes(load, tmp_path, capfd):
    root = tmp_path / "splits"
    make_images(root / "train", 3)
    make_images(root / "test", 2, 10)
    dataset = load(root, validation_size=1)
    assert dataset.class_names == () and dataset.train.labels is None
    assert values(dataset.test) == [10, 11] and capfd.readouterr().err == ""
    (root / "train" / "a").mkdir()
    for path in (root / "train").glob("*.png"):
        path.rename(root / "train" / "a" / path.name)
    assert load(root, validation_size=1).train.labels is None
    shown = capfd.readouterr().err
    assert shown.endswith("; the images have no labels\n") and shown.count("\n") == 1


@pytest.mark.parametrize("names", [("train", "car"), ("val", "test"), ("train", "val", "other")])
def test_other_folders_are_classes(load, tmp_path, names):
    for number, name in enumerate(names):
        make_images(tmp_path / "classes" / name, 3, 10 * number)
    assert load(tmp_path / "classes").class_names == tuple(sorted(names))


def test_a_split_whose_images_are_all_damaged(tmp_path):
    make_images(tmp_path / "test", 3)
    make_images(tmp_path / "train", 1)
    (tmp_path / "train" / "000.png").write_bytes(b"")
    message = error_of(datasets.read_images, str(tmp_path), skip_damaged=True)
    assert "no training image can be read" in message
    make_images(tmp_path / "train", 1)
    (tmp_path / "test" / "001.png").write_bytes(b"")
    splits, _ = datasets.read_images(str(tmp_path), skip_damaged=True)
    assert {name: values(split) for name, split in splits.items()} == {"train": [0], "test": [0, 2]}


def test_one_folder_that_holds_the_classes_is_none(load, tmp_path):
    make_images(tmp_path / "all" / "photos" / "a", 3)
    make_images(tmp_path / "all" / "photos" / "b", 3, 10)
    assert load(tmp_path / "all").class_names == ("a", "b")
    assert load(tmp_path / "all").sha256 == load(tmp_path / "all" / "photos").sha256
    make_images(tmp_path / "one" / "a", 6)
    assert load(tmp_path / "one").class_names == ("a",)


# This package's output.


def make_run(folder, file="metrics.csv"):
    make_images(folder / "samples", 4, 50)
    (folder / "config.json").write_text('{"config": {"seed": 0}}')
    (folder / file).mkdir() if file == "checkpoints" else (folder / file).touch()


@pytest.mark.parametrize(
    "file", ["metrics.csv", "summary.json", "checkpoints", "weights.safetensors"]
)
def test_run_directories_are_never_data(load, photos, capfd, file):
    expected = load().sha256
    make_run(photos / "runs" / "first", file)
    make_run(photos / "runs" / "second", file)
    dataset = load()
    assert dataset.sha256 == expected and dataset.class_names == ()
    assert capfd.readouterr().err == (
        f"'{photos}': 2 folders of runs or output are left out, the first: '{photos}/runs/first'\n"
    )
    assert error_of(load, photos / "runs" / "first").endswith(
        "is a run's output, not data; give the original images"
    )


def test_marked_output_is_never_data(load, photos, capfd):
    expected = load().sha256
    make_images(photos / "out" / "reconstructions", 4, 50)
    (photos / "out" / image_folder.OUTPUT_MARKER).touch()
    assert load().sha256 == expected
    assert "1 folders of runs or output are left out" in capfd.readouterr().err
    (photos / image_folder.OUTPUT_MARKER).touch()
    assert "is a run's output" in error_of(load)


@pytest.mark.parametrize("content", ["[1]", "3", "{", '{"images": 4}'])
def test_the_config_json_of_another_program(load, tmp_path, content):
    make_images(tmp_path / "classes" / "a")
    (tmp_path / "classes" / "a" / "config.json").write_text(content)
    (tmp_path / "classes" / "a" / "metrics.csv").touch()
    assert load(tmp_path / "classes").class_names == ("a",)


# Paths.


def test_one_image_file(load, photos, data_dir, tmp_path):
    splits, class_names = datasets.read_images(str(photos / "003.png"))
    assert values(splits["all"]) == [3] and class_names == () and splits["all"].labels is None
    assert splits["all"].names.tolist() == ["003.png"]
    (tmp_path / "link.PNG").symlink_to(photos / "003.png")
    assert values(datasets.read_images(str(tmp_path / "link.PNG"), (3, 2))[0]["all"]) == [3]
    assert "of the 1 images of" in error_of(load, photos / "003.png")
    assert not data_dir.exists()  # it would take the place of what is kept of the folder
    os.mkfifo(photos / "pipe.png")
    assert "cannot be read" in error_of(load, photos / "pipe.png")


def test_no_path(load):
    for path in (None, ""):
        assert "--config.data.path=PATH" in error_of(datasets.load, "images", path=path)


def test_paths_that_are_no_images(load, tmp_path, photos):
    assert "cannot be read (No such file or directory)" in error_of(load, tmp_path / "no\nwhere")
    assert "null" in error_of(load, "a\0b")
    (photos / "notes.txt").write_text("no image")
    assert "neither a folder of images" in error_of(load, photos / "notes.txt")
    (tmp_path / "empty").mkdir()
    assert "holds no image" in error_of(load, tmp_path / "empty")
    (tmp_path / "empty" / "notes.txt").write_text("no image")
    message = error_of(load, tmp_path / "empty")
    assert "no file named .png" in message and "holds 1 other files" in message


def test_home_is_expanded(load, photos, monkeypatch):
    monkeypatch.setenv("HOME", str(photos.parent))
    assert len(load("~/photos").train) == 3


def test_links(load, photos, tmp_path):
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "class").symlink_to(photos)
    assert load(tmp_path / "links").class_names == ("class",)
    (photos / "back").symlink_to(tmp_path / "links")
    assert "back to a folder above it" in error_of(load, tmp_path / "links")


def test_a_folder_that_may_not_be_read(load, photos, monkeypatch):
    def forbidden(folder):
        raise PermissionError(errno.EACCES, "Permission denied", folder)

    monkeypatch.setattr(image_folder.os, "scandir", forbidden)
    assert error_of(load) == f"{photos}: cannot be read (Permission denied)"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"image_size": (3,)}, "data.image_size is (3,)"),
        ({"image_size": (0, 3)}, "data.image_size is (0, 3)"),
        ({"image_size": (2**31, 2**31)}, "more than 89478485 pixels"),
        ({"channels": 2}, "data.channels is 2"),
    ],
)
def test_arguments_that_cannot_be(load, fields, expected):
    assert expected in error_of(load, **fields)


def test_damaged_images_are_left_out_and_counted(load, tmp_path, capfd):
    root = tmp_path / "classes"
    make_images(root / "a", 3)
    make_images(root / "b", 3, 10)
    (root / "a" / "001.png").write_bytes(b"")
    assert f"{root}/a/001.png: is empty" in error_of(load, root)
    assert not list((tmp_path / "data").rglob("*.npy"))
    for _ in range(2):  # decoded, and as kept
        dataset = load(root, skip_damaged=True)
        shown = capfd.readouterr().err
        assert "1 of 6 images are left out, the first: 'a/001.png' 'is empty" in shown
        assert shown.count("\n") == 1
        for split in (dataset.train, dataset.validation, dataset.test):
            assert split.labels.tolist() == [value // 10 for value in values(split)]


# What is kept on disk.


@pytest.fixture
def decoded(monkeypatch):
    """Counts how often the folder is decoded."""
    counts = []
    decode = image_files.decode

    def count(*arguments):
        counts.append(1)
        return decode(*arguments)

    monkeypatch.setattr(image_files, "decode", count)
    return counts


def kept(data_dir):
    return sorted((data_dir / image_cache.FOLDER_NAME).iterdir())


def test_images_are_decoded_once(load, data_dir, decoded):
    assert load().sha256 == load().sha256
    assert len(decoded) == 1 and len(kept(data_dir)) == 1
    load(image_size=(2, 2))
    load(channels=3)
    load(skip_damaged=True)
    assert len(decoded) == 4 and len(kept(data_dir)) == 4
    load()
    assert len(decoded) == 4


@pytest.mark.parametrize("change", ["more", "fewer", "rename", "touch", "content"])
def test_a_folder_that_has_changed_is_decoded_again(load, data_dir, photos, decoded, change):
    before, [old] = load().sha256, kept(data_dir)
    path = photos / "005.png"
    if change == "more":
        make_images(photos, 1, 6)
    elif change == "fewer":
        path.unlink()
    elif change == "rename":
        path.rename(photos / "!.png")
    elif change == "content":
        Image.new("L", (4, 3), 99).save(path)
    os.utime(photos / "004.png", ns=(1, 1))
    after = load().sha256
    assert (after == before) == (change == "touch")
    assert len(decoded) == 2
    [new] = kept(data_dir)  # what was kept before is gone
    assert new != old


def test_a_file_that_is_edited_with_its_time_kept(load, photos, decoded):
    before, path = load().sha256, photos / "005.png"
    status, pixels = path.stat(), bytearray(path.read_bytes())
    make_images(photos, 1, 5)
    image = Image.open(path)
    image.load()
    image.putpixel((0, 0), 77)
    image.save(path, compress_level=0)
    path.write_bytes(path.read_bytes().ljust(len(pixels), b"\0"))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert load().sha256 != before and len(decoded) == 2


@pytest.mark.parametrize("only", ["blocks", "inode"])
def test_two_files_that_are_swapped(load, photos, decoded, monkeypatch, only):
    """By what they hold alone, as in a container, and by the file system alone."""
    paths = [photos / "004.png", photos / "005.png"]
    for path in paths:
        os.utime(path, ns=(1, 1))
    assert paths[0].stat().st_size == paths[1].stat().st_size
    if only == "blocks":
        fields = {"st_size": 9, "st_mtime_ns": 1, "st_ctime_ns": 1, "st_ino": 1}
        monkeypatch.setattr(image_cache.os, "fstat", lambda _: types.SimpleNamespace(**fields))
    else:
        monkeypatch.setattr(image_cache, "zlib", types.SimpleNamespace(crc32=lambda data: 0))
    before = load().sha256
    first, second = (path.read_bytes() for path in paths)
    if only == "blocks":
        paths[0].write_bytes(second)
        paths[1].write_bytes(first)
    else:
        paths[0].rename(photos / "third.png")
        paths[1].rename(paths[0])
        (photos / "third.png").rename(paths[1])
    assert load().sha256 != before and len(decoded) == 2


def test_what_is_said_is_said_of_kept_images_too(load, photos, decoded, capfd):
    images = [Image.new("L", (4, 3), 200), Image.new("L", (4, 3), 100)]
    images[0].save(photos / "z.gif", save_all=True, append_images=images[1:])
    load()
    first = capfd.readouterr().err
    load()
    assert capfd.readouterr().err == first and "is read: 'z.gif'" in first and len(decoded) == 1


def test_other_levels_are_decoded_again(load, tmp_path, decoded):
    (tmp_path / "masks").mkdir()
    for number in range(6):
        Image.fromarray(np.uint8(np.indices((3, 4)).sum(0) == number)).save(
            tmp_path / "masks" / f"{number}.png"
        )
    assert "set --config.data.levels=2;" in error_of(load, tmp_path / "masks")
    assert load(tmp_path / "masks", levels=2).train.images.max() == 255
    assert load(tmp_path / "masks", levels=256).train.images.max() == 1
    assert load(tmp_path / "masks", levels=2).train.images.max() == 255
    assert len(decoded) == 3


def _flip(folder):
    data = bytearray((folder / "images.npy").read_bytes())
    data[-1] ^= 1
    (folder / "images.npy").write_bytes(bytes(data))


def _cut(folder):
    data = (folder / "images.npy").read_bytes()
    (folder / "images.npy").write_bytes(data[:-9])


def _promise(folder):
    data = bytearray((folder / "images.npy").read_bytes())
    data[6] = 3  # of this version the header's length has four bytes: 660 MB of header
    (folder / "images.npy").write_bytes(bytes(data))


def test_a_header_that_promises_much_is_not_read(load, data_dir):
    load()
    _promise(kept(data_dir)[0])
    tracemalloc.start()
    try:
        load()
        assert tracemalloc.get_traced_memory()[1] < 50e6
    finally:
        tracemalloc.stop()


DAMAGE = {
    "flipped": _flip,
    "another version": _promise,
    "cut": _cut,
    "no images": lambda folder: (folder / "images.npy").unlink(),
    "no record": lambda folder: (folder / "record.json").unlink(),
    "no JSON": lambda folder: (folder / "record.json").write_text("{"),
    "another record": lambda folder: (folder / "record.json").write_text('{"left_out": {}}'),
    "all gone": lambda folder: [path.unlink() for path in folder.iterdir()],
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_images_are_decoded_again(load, data_dir, decoded, capfd, damage):
    before, [folder] = load().sha256, kept(data_dir)
    DAMAGE[damage](folder)
    assert load().sha256 == before and len(decoded) == 2
    shown = capfd.readouterr().err
    assert shown.startswith(f"'{folder}': the decoded images are damaged (")
    assert shown.endswith("); decoding again\n") and shown.count("\n") == 1
    assert load().sha256 == before and len(decoded) == 2
    assert kept(data_dir) == [folder]


def test_a_run_that_decodes_meanwhile(load, data_dir, monkeypatch):
    decode, counts = image_files.decode, []

    def decode_and_load(*arguments):
        counts.append(1)
        if len(counts) == 1:
            load()
        return decode(*arguments)

    monkeypatch.setattr(image_files, "decode", decode_and_load)
    before = load().sha256
    assert len(counts) == 2 and len(kept(data_dir)) == 1
    assert load().sha256 == before and len(counts) == 2


def test_a_data_dir_that_cannot_be_written(load, data_dir, monkeypatch):
    data_dir.write_text("a file, not a folder")
    message = error_of(load)
    assert "cannot write decoded images" in message and "--config.data.data_dir=FOLDER" in message
    data_dir.unlink()

    def full(path, array):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    assert "(No space left on device)" in error_of(load)
    assert kept(data_dir) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_images_are_decoded_leaves_nothing(load, data_dir, monkeypatch, number):
    read = image_files.read

    def read_and_signal(path, *arguments):
        if path.endswith("003.png"):  # a second signal would be obeyed at once
            assert kept(data_dir)[0].name.startswith(".decoding.")
            os.kill(os.getpid(), number)
        return read(path, *arguments)

    monkeypatch.setattr(image_files, "read", read_and_signal)
    with pytest.raises(interrupts.Interrupted):
        load()
    assert kept(data_dir) == []
