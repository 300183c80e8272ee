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


@pytest.mark.parametrize(
    "labels", [LABELS, LABELS[:, None], LABELS.astype(np.uint8), LABELS.astype(np.float32)]
)
def test_labels_become_indices(load, labels):
    dataset = load(keys={"images": IMAGES, "labels": labels})
    assert dataset.class_names == ("1", "3", "7")
    found = joined(dataset)[1]
    assert found.dtype == np.int32
    np.testing.assert_array_equal(np.array([1, 3, 7])[found], LABELS)


def test_labels_may_be_text(load):
    dataset = load(keys={"images": IMAGES, "labels": [*"abca\nbabc"]})
    assert dataset.class_names == ("\n", "a", "b", "c")
    assert joined(dataset)[1].tolist() == [1, 2, 3, 1, 0, 2, 1, 2, 3]


@pytest.mark.parametrize("dtype", [bool, np.int64, np.float32])
def test_one_hot_labels_and_bytes_are_classes(load, capfd, dtype):
    one_hot = np.eye(8, dtype=dtype)[LABELS]
    dataset = load(keys={"images": IMAGES, "labels": one_hot})
    assert dataset.class_names == ("1", "3", "7")
    np.testing.assert_array_equal(np.array([1, 3, 7])[joined(dataset)[1]], LABELS)
    dataset = load(
        keys={"images": IMAGES, "labels": np.array([b"dog", b"cat\xff", b"\xc3\xa9"] * 3)}
    )
    assert dataset.class_names == ("cat\\xff", "dog", "é")
    assert joined(dataset)[1].tolist() == [1, 0, 2] * 3
    assert capfd.readouterr().err == ""


MULTI_LABEL = np.tile([[1, 0, 1], [0, 1, 0], [0, 0, 0]], (3, 1))


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (MULTI_LABEL, "labels of all are int64[9, 3], not classes; all are left out"),
        (LABELS / 2, "labels of all are float64[9], not classes"),
        (np.full(9, np.nan), "labels of all are float64[9], not classes"),
        (np.zeros((9, 2, 2), int), "labels of all are int64[9, 2, 2], not classes"),
        (np.zeros((9, 0), int), "labels of all are int64[9, 0], not classes"),
        (LABELS * 1j, "labels of all are complex128[9], not classes"),
        (np.array([None] * 9), "labels: holds Python objects, which are never read"),
    ],
)
def test_labels_that_are_not_classes_are_left_out(load, capfd, labels, expected):
    dataset = load(keys={"images": IMAGES, "labels": labels})
    assert dataset.train.labels is None and dataset.class_names == ()
    shown = capfd.readouterr().err
    assert expected in shown and shown.count("\n") == 1


def test_labels_of_one_split_alone_are_left_out(load, capfd):
    load(keys={"x_train": IMAGES[:6], "y_train": LABELS[:6], "x_test": IMAGES[6:]})
    assert "labels of test are missing; all are left out\n" in capfd.readouterr().err


@pytest.mark.parametrize("name", ["y", "label", "labels"])
def test_other_names_of_labels_and_unknown_keys(load, capfd, name):
    keys = {"images": IMAGES, "a\nb": LABELS, "x_val": IMAGES} | {name: LABELS}
    dataset = load(keys=keys)
    np.testing.assert_array_equal(np.array([1, 3, 7])[joined(dataset)[1]], LABELS)
    assert capfd.readouterr().err.endswith("some images.npz': not read: 'a\\nb', 'x_val'\n")


def test_of_two_kinds_of_labels_one_is_read(load, capfd):
    assert load(keys={"images": IMAGES, "y": LABELS + 1, "labels": LABELS}).class_names[0] == "1"
    assert "not read: 'y'" in capfd.readouterr().err


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
@pytest.mark.parametrize("layout", ["{kind}_{split}", "{split}_{kind}"])
def test_a_validation_split_is_read_under_any_of_its_names(load, capfd, layout, name):
    kinds = "xy" if layout.startswith("{k") else ("images", "labels")
    rows = {"train": slice(0, 5), name: slice(5, 7), "test": slice(7, 9)}
    keys = {
        layout.format(kind=kind, split=split): array[rows[split]]
        for split in rows
        for kind, array in zip(kinds, (IMAGES, LABELS), strict=True)
    }
    dataset = load(keys=keys, validation_size=5_000, test_size=5_000)
    assert [len(split) for split in (dataset.train, dataset.validation, dataset.test)] == [5, 2, 2]
    np.testing.assert_array_equal(dataset.validation.images[..., 0], IMAGES[5:7])
    assert dataset.validation.labels.tolist() == [1, 2] and capfd.readouterr().err == ""
    keys = {key: array for key, array in keys.items() if "test" not in key}
    dataset = load(keys=keys, validation_size=5_000)
    assert [len(split) for split in (dataset.train, dataset.validation, dataset.test)] == [4, 2, 1]


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


# Levels.

BITS = IMAGES % 2


@pytest.mark.parametrize(
    ("array", "levels", "white"),
    [
        (BITS, 2, 1),
        (BITS.astype(np.int64), 2, 1),
        (BITS * 16, 17, 16),
        (BITS * np.uint16(4095), 4096, 4095),
        (BITS * 16.0, 17, 16),
        (BITS.astype(bool), 0, 1),
        (BITS.astype(bool), 2, 1),
        (BITS / 1, 2, 1),
    ],
)
def test_values_are_scaled_by_the_levels_given(load, capfd, array, levels, white):
    expected = np.rint(array * (255 / white))
    np.testing.assert_array_equal(
        joined(load(array, levels=levels))[0][..., 0], joined_of(expected)
    )
    assert load(keys={"images": array}, levels=levels).image_shape == (3, 4, 1)
    assert capfd.readouterr().err == ""


def joined_of(images):
    return images[np.argsort(images[:, 0, 0])]


def test_256_levels_are_bytes_as_they_are(load):
    assert load(BITS, levels=256).train.images.max() == 1
    assert load(IMAGES, levels=256).sha256 == load(IMAGES).sha256


def test_levels_that_are_lost_are_reported(load, capfd):
    load(np.arange(4096, dtype=np.uint16).reshape(64, 8, 8), levels=4096)
    assert "integers are rounded to 256 levels, by up to 0.00" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("array", "white", "scaling"),
    [
        (BITS, "1 and 255", "set --config.data.levels=2"),
        (BITS * 15, "15 and 255", "set --config.data.levels=16"),
        (BITS * 16, "16 and 255", "set --config.data.levels=17"),  # scikit-learn's digits
        (IMAGES / 255 / 255, "0.0016455 and 1", "divide by it"),
    ],
)
def test_images_that_are_all_nearly_black_are_refused(load, capfd, array, white, scaling):
    keep = "2" if array.dtype == float else "256"
    message = error_of(load, array)
    assert f": no value exceeds {white} is white, so all images are nearly black" in message
    assert f"is white, {scaling}; if they are this dark, set --config.data.levels={keep}" in message
    assert "some images.npz: images: no value exceeds" in error_of(load, keys={"images": array})
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("black", [IMAGES * 0, IMAGES * 0.0, IMAGES > 255])
def test_black_images_are_refused(load, black):
    assert "every value is 0 (black); give other images, or set" in error_of(load, black)


def test_the_brightest_image_decides(load):
    assert load(np.where(IMAGES == 107, 17, BITS).astype(np.uint8)).image_shape == (3, 4, 1)


def test_levels_that_values_exceed(load):
    message = error_of(load, IMAGES, levels=17)
    assert "is uint8 from 0 to 107, must be from 0 to 16, by data.levels" in message


def test_check_levels_in_python():
    datasets.check_levels(IMAGES, "x")
    message = error_of(datasets.check_levels, BITS, "x", in_file=False)
    assert message == (
        "x: no value exceeds 1 and 255 is white, so all images are nearly black; if 1 is white, "
        "pass images / 1; if they are this dark, pass images / 255"
    )


# One image, or many.


def test_one_image_is_told_from_many_by_the_shape_wanted(tmp_path):
    def read(shape, *wanted):
        np.save(tmp_path / "one.npy", np.full(shape, 200, np.uint8))
        splits, _ = datasets.read_images(str(tmp_path / "one.npy"), *wanted)
        return splits["all"].images.shape

    assert read((40, 30, 3), (40, 30), 3) == read((40, 30, 3), (40, 30)) == (1, 40, 30, 3)
    assert read((80, 60, 3), (40, 30), 3) == (1, 40, 30, 3)
    assert read((40, 30, 3), (40, 30), 1) == (1, 40, 30, 1)
    assert read((40, 30, 3), (30, 3), 1) == (40, 30, 3, 1)
    assert read((40, 30, 1), (40, 30), 1) == read((40, 30), (40, 30), 1) == (1, 40, 30, 1)
    assert read((40, 30, 1), (30, 1), 1) == (40, 30, 1, 1)
    assert read((7, 40, 30), (20, 15), 1) == (7, 20, 15, 1)
    for wanted in ((), ((28, 28), 1), ((28, 28),)):
        message = error_of(read, (40, 30, 3), *wanted)
        assert "may be one image of 3 channels or 40 gray images" in message
        assert message.endswith("save it with the shape (1, 40, 30, 3) or (40, 30, 3, 1)")
    assert "may be one image" in error_of(read, (3, 3, 3), (3, 3))


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
        ({"images": IMAGES, "labels": np.array(1)}, "9 images, but labels of the shape ()"),
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
    if keys == "labels":
        load(keys=arrays)
    else:
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
