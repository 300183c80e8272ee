"""Images in .npz and .npy files: read as they are, or refused in one line, never unpickled."""

import errno
import io
import tracemalloc
import zipfile

import numpy as np
import pytest

from tests.support.common import error_of
from vae_jax import datasets
from vae_jax.datasets import image_arrays

IMAGES = np.arange(9 * 3 * 4, dtype=np.uint8).reshape(9, 3, 4)
LABELS = np.array([3, 3, 7, 1, 1, 3, 7, 7, 7])


@pytest.fixture
def load(tmp_path):
    """Saves arrays, alone or by key, and loads them as a data set."""

    def load_arrays(array=None, name="some images", keys=None, **fields):
        if keys is None:
            path = tmp_path / f"{name}.npy"
            np.save(path, array)
        else:
            path = tmp_path / f"{name}.npz"
            np.savez_compressed(path, **keys)
        return load_path(path, **fields)

    return load_arrays


def load_path(path, **fields):
    sizes = {"validation_size": 2, "test_size": 1}
    return datasets.load("images", "unused", path=str(path), **sizes | fields)


def joined(dataset):
    """All images, and their labels, in the order of the images' first pixels."""
    splits = (dataset.train, dataset.validation, dataset.test)
    images = np.concatenate([split.images for split in splits])
    order = np.argsort(images[:, 0, 0, 0])
    labels = [split.labels for split in splits if split.labels is not None]
    return images[order], np.concatenate(labels)[order] if labels else None


# What is read.


@pytest.mark.parametrize("channels", [None, 1, 3])
def test_bytes(load, channels):
    images = IMAGES if channels is None else np.stack([IMAGES] * channels, axis=-1)
    dataset = load(images)
    assert dataset.image_shape == (3, 4, channels or 1)
    assert [len(split) for split in (dataset.train, dataset.validation, dataset.test)] == [6, 2, 1]
    np.testing.assert_array_equal(joined(dataset)[0], images.reshape(9, 3, 4, -1))
    assert dataset.train.labels is None and dataset.class_names == ()
    assert dataset.sha256 == load(keys={"images": images}).sha256
    fortran = load(np.asfortranarray(images))
    assert fortran.sha256 == dataset.sha256 and fortran.train.images.flags.c_contiguous


@pytest.mark.parametrize("labels", [LABELS, LABELS[:, None], LABELS.astype(np.uint8)])
def test_labels_become_indices(load, labels):
    dataset = load(keys={"images": IMAGES, "labels": labels})
    assert dataset.class_names == ("1", "3", "7")
    found = joined(dataset)[1]
    assert found.dtype == np.int32
    np.testing.assert_array_equal(np.array([1, 3, 7])[found], LABELS)


def test_labels_may_be_text(load):
    dataset = load(keys={"images": IMAGES, "labels": [*"abca\nbabc"]})
    assert dataset.class_names == ("\\n", "a", "b", "c")
    assert joined(dataset)[1].tolist() == [1, 2, 3, 1, 0, 2, 1, 2, 3]


def test_the_splits_of_keras(load):
    keys = {
        "x_train": IMAGES[:6],
        "y_train": LABELS[:6],
        "x_test": IMAGES[6:],
        "y_test": LABELS[6:],
    }
    dataset = load(keys=keys, test_size=5_000)
    assert [len(split) for split in (dataset.train, dataset.validation, dataset.test)] == [4, 2, 3]
    np.testing.assert_array_equal(dataset.test.images[..., 0], IMAGES[6:])
    assert dataset.test.labels.tolist() == [2, 2, 2]
    np.testing.assert_array_equal(joined(dataset)[1], [1, 1, 2, 0, 0, 1, 2, 2, 2])
    message = error_of(load, keys=keys, validation_size=6)
    assert message.startswith("data.validation_size 6: ") and "the 6 images" in message


def test_the_splits_of_medmnist(load):
    rows = {"train": slice(0, 5), "val": slice(5, 7), "test": slice(7, 9)}
    keys = {f"{name}_images": IMAGES[rows] for name, rows in rows.items()}
    keys |= {f"{name}_labels": LABELS[rows, None] for name, rows in rows.items()}
    dataset = load(keys=keys, validation_size=5_000, test_size=5_000)
    for name, split in (("train", "train"), ("val", "validation"), ("test", "test")):
        found = getattr(dataset, split)
        np.testing.assert_array_equal(found.images[..., 0], IMAGES[rows[name]])
        np.testing.assert_array_equal(np.array([1, 3, 7])[found.labels], LABELS[rows[name]])


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f4", "longdouble"])
def test_floats_that_are_levels_lose_nothing(load, capfd, dtype):
    images = np.arange(256, dtype=np.uint8).reshape(16, 4, 4)
    np.testing.assert_array_equal(joined(load(images.astype(dtype) / 255))[0][..., 0], images)
    assert capfd.readouterr().err == ""


def test_other_floats_are_rounded_and_that_is_said(load, capfd):
    images = np.linspace(0, 1, 1_000).reshape(10, 10, 10)
    result = joined(load(images.astype(np.float32)))[0][..., 0]
    np.testing.assert_array_equal(result, np.rint(images * 255))
    shown = capfd.readouterr().err
    assert "floats are rounded to 256 levels, by up to 0.00" in shown and shown.count("\n") == 1


def test_size_and_channels(load):
    dataset = load(IMAGES, image_size=(6, 8), channels=3)
    assert dataset.image_shape == (6, 8, 3)
    assert (dataset.train.images[..., 0] == dataset.train.images[..., 2]).all()
    color = np.stack([IMAGES, IMAGES, IMAGES], axis=-1)
    np.testing.assert_array_equal(joined(load(color, channels=1))[0][..., 0], IMAGES)
    narrow = load(IMAGES, image_size=(3, 2))
    assert narrow.image_shape == (3, 2, 1)


def test_the_suffix_may_be_upper_case(load, tmp_path):
    load(IMAGES)
    (tmp_path / "some images.npy").rename(tmp_path / "IMAGES.NPY")
    assert load_path(tmp_path / "IMAGES.NPY").image_shape == (3, 4, 1)


# What is refused.


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (IMAGES[0], "has the shape (3, 4), must be [n, height, width]"),
        (IMAGES[..., None].repeat(4, 3), "has the shape (9, 3, 4, 4), must be"),
        (IMAGES[:, None].repeat(3, 1), "has the shape (9, 3, 3, 4), must be"),
        (np.uint8(3), "has the shape ()"),
        (IMAGES[:0], "holds no images"),
        (IMAGES[:, :0], "holds no images: its shape is (9, 0, 4)"),
        (IMAGES.astype(int), "is int64 from 0 to 107, must be uint8, or floats from 0 to 1"),
        (IMAGES > 3, "is bool, must be uint8"),
        (IMAGES.astype("U"), "is <U3, must be uint8"),
        (IMAGES * 1j, "is complex128, must be"),
        (IMAGES.astype(np.float32), "is float32 from 0.0 to 107.0, must be"),
        (IMAGES / 200 - 0.1, "is float64 from -0.1 to"),
        (np.where(IMAGES == 50, np.nan, 0.5), "is float64 from nan to nan, must be"),
        (np.where(IMAGES == 50, np.inf, 0.5), "is float64 from 0.5 to inf, must be"),
    ],
)
def test_images_that_cannot_be(load, array, expected):
    assert expected in error_of(load, array)
    message = error_of(load, keys={"images": array})
    assert expected in message and "some images.npz: images" in message


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({}, "holds nothing; must hold one of these"),
        ({"pictures": IMAGES, "y\n": LABELS}, "holds pictures, y\\n; must hold one of these"),
        ({"x_train": IMAGES}, "holds x_train; must"),
        ({"images": IMAGES, "x_train": IMAGES, "x_test": IMAGES}, "must hold one of these"),
        ({"images": IMAGES, "labels": LABELS[:8]}, "9 images, but labels of the shape (8,)"),
        ({"images": IMAGES, "labels": np.zeros((9, 14), int)}, "labels of the shape (9, 14)"),
        ({"images": IMAGES, "labels": LABELS / 2}, "labels of type float64"),
        ({"x_train": IMAGES, "x_test": IMAGES, "y_test": LABELS}, "labels of test, but none of"),
        ({"x_train": IMAGES, "x_test": IMAGES[:, 1:]}, "the splits' images differ in shape"),
    ],
)
def test_keys_that_cannot_be(load, keys, expected):
    assert expected in error_of(load, keys=keys)


class Marked:
    """Pickled, it would leave a file behind when it is unpickled."""

    path = ""

    def __reduce__(self):
        return open, (Marked.path, "w")


@pytest.mark.parametrize("keys", [None, "images", "labels"])
def test_objects_are_never_unpickled(load, tmp_path, keys):
    Marked.path = str(tmp_path / "unpickled")
    objects = np.array([Marked()] * 9, dtype=object)
    arrays = {"images": IMAGES} | {keys: objects} if keys else None
    message = error_of(load, objects, keys=arrays)
    assert "holds Python objects, which are never read" in message
    assert not (tmp_path / "unpickled").exists()


def npy(array=IMAGES, **header):
    """An .npy file with some entries of its header replaced."""
    file = io.BytesIO()
    entries = {"descr": array.dtype.str, "fortran_order": False, "shape": array.shape} | header
    np.lib.format.write_array_header_1_0(file, entries)
    return file.getvalue() + array.tobytes()


DAMAGED = {
    "empty": b"",
    "text": b"no array\n" * 9,
    "header alone": npy()[:20],
    "truncated": npy()[:-1],
    "longer": npy() + b"\0",
    "fewer promised": npy(shape=(8, 3, 4)),
    "more promised": npy(shape=(10**6, 10**3, 4)),
    "negative": npy(shape=(-9, -3, 4)),
    "overflowing": npy(shape=(2**62, 2**62, 0)),
    "no type": npy(descr="|V0"),
    "not a type": npy(descr="xyz"),
    "version 3": npy().replace(b"NUMPY\x01", b"NUMPY\x03"),
    "pickle": b"\x80\x04K\x01.",
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_damaged_files(tmp_path, damage):
    (tmp_path / "a b.npy").write_bytes(DAMAGED[damage])
    assert f"{tmp_path}/a b.npy: " in error_of(load_path, tmp_path / "a b.npy")
    with zipfile.ZipFile(tmp_path / "a b.npz", "w") as archive:
        archive.writestr("images.npy", DAMAGED[damage])
    assert f"{tmp_path}/a b.npz: " in error_of(load_path, tmp_path / "a b.npz")


@pytest.mark.parametrize("spoil", [lambda d: b"", lambda d: d[:-30], lambda d: d[:99] + d[100:]])
def test_damaged_archives(tmp_path, load, spoil):
    load(keys={"images": IMAGES})
    path = tmp_path / "some images.npz"
    path.write_bytes(spoil(path.read_bytes()))
    assert "is damaged, or no .npz file" in error_of(load_path, path)


def test_compressions_that_numpy_does_not_write(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("images.npy", npy())
    assert "compressed in a way" in error_of(load_path, tmp_path / "a.npz")


def test_a_file_that_may_not_be_read(load, monkeypatch):
    def forbidden(path, mode):
        raise PermissionError(errno.EACCES, "Permission denied", path)

    monkeypatch.setattr(image_arrays, "open", forbidden, raising=False)
    assert "some images.npy: cannot be read (Permission denied)" in error_of(load, IMAGES)


def test_more_than_fits_in_memory(load, monkeypatch):
    def lacking(*arguments):
        raise MemoryError

    monkeypatch.setattr("vae_jax.datasets.idx.read_at_most", lacking)
    assert "more memory than there is" in error_of(load, IMAGES)


def test_memory_follows_the_file_not_its_header(tmp_path):
    (tmp_path / "a.npy").write_bytes(npy(shape=(10**7, 3, 4)))
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("images.npy", npy() + bytes(50_000_000))
    tracemalloc.start()
    for name, expected in (("a.npy", "the file holds 108"), ("a.npz", "holds 50000108")):
        assert expected in error_of(load_path, tmp_path / name)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5_000_000
