"""Images in .npz and .npy files: read as they are, or refused in one line, never unpickled."""

import io
import zipfile

import numpy as np
import pytest

from tests.support.common import error_of
from vae_jax import datasets
from vae_jax.datasets import StoredImages, array_files, image_arrays

IMAGES = np.arange(9 * 3 * 4, dtype=np.uint8).reshape(9, 3, 4)
LABELS = np.array([3, 3, 7, 1, 1, 3, 7, 7, 7])
BITS = IMAGES % 2


@pytest.fixture
def load(tmp_path):
    """Saves an array, or arrays by key, and loads them as a data set."""

    def load_arrays(arrays, **fields):
        path = tmp_path / ("some images.npz" if isinstance(arrays, dict) else "some images.npy")
        if isinstance(arrays, dict):
            np.savez_compressed(path, **arrays)
        else:
            np.save(path, arrays)
        return load_path(path, **fields)

    return load_arrays


def load_path(path, **fields):
    sizes = {"validation_size": 2, "test_size": 1, "data_dir": "unused"}
    return datasets.load("images", path=str(path), **sizes | fields)


def splits_of(dataset):
    return dataset.train, dataset.validation, dataset.test


def joined(dataset):
    """All images in the order of their first pixels, and their labels."""
    splits = splits_of(dataset)
    images = np.concatenate([split.images for split in splits])
    order = np.argsort(images[:, 0, 0, 0], stable=True)
    labels = [split.labels for split in splits if split.labels is not None]
    return images[order], np.concatenate(labels)[order] if labels else None


@pytest.mark.parametrize("channels", [None, 1, 3])
def test_bytes(load, channels):
    images = IMAGES if channels is None else np.stack([IMAGES] * channels, axis=-1)
    dataset = load(images)
    assert dataset.image_shape == (3, 4, channels or 1)
    assert [*map(len, splits_of(dataset))] == [6, 2, 1]
    np.testing.assert_array_equal(joined(dataset)[0], images.reshape(9, 3, 4, -1))
    assert dataset.train.labels is None and dataset.class_names == ()
    assert dataset.sha256 == load({"images": images}).sha256
    fortran = load(np.asfortranarray(images))
    assert fortran.sha256 == dataset.sha256 and fortran.train.images.flags.c_contiguous


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f4", "longdouble"])
def test_floats_that_are_levels_lose_nothing(load, capfd, dtype):
    images = np.arange(256, dtype=np.uint8).reshape(16, 4, 4)
    np.testing.assert_array_equal(joined(load(images.astype(dtype) / 255))[0][..., 0], images)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("array", "levels"),
    [
        (np.linspace(0, 1, 1_000).reshape(10, 10, 10).astype(np.float32), 0),
        (np.arange(4096, dtype=np.uint16).reshape(64, 8, 8), 4096),
    ],
)
def test_numbers_that_are_rounded_are_reported(load, capfd, array, levels):
    result = joined(load(array, levels=levels))[0][..., 0]
    np.testing.assert_array_equal(np.unique(result), np.arange(256))
    assert "rounded to 256 levels, by up to 0.00" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("array", "levels", "white"),
    [
        (BITS, 2, 1),
        (BITS.astype(np.int64), 2, 1),
        (BITS * np.uint16(4095), 4096, 4095),
        (BITS * 16.0, 17, 16),
        (BITS.astype(bool), 0, 1),
        (BITS / 1, 2, 1),
        (BITS, 256, 255),
    ],
)
def test_values_are_scaled_by_the_levels_given(load, capfd, array, levels, white):
    result = joined(load({"images": array}, levels=levels))[0][..., 0]
    expected = np.rint(array * (255 / white)).astype(np.uint8)
    np.testing.assert_array_equal(np.unique(result, axis=0), np.unique(expected, axis=0))
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("array", "white", "scaling"),
    [
        (BITS, "1 and 255", "set --config.data.levels=2"),
        (BITS * 15, "15 and 255", "set --config.data.levels=16"),
        (BITS * 16, "16 and 255", "set --config.data.levels=17"),  # scikit-learn's digits
        (IMAGES / 255 / 255, "0.0016455 and 1", "divide by it"),
    ],
)
def test_images_that_are_all_nearly_black_are_refused(load, array, white, scaling):
    assert "is uint8 from 0 to 107, must be from 0 to 16" in error_of(load, IMAGES, levels=17)
    message, keep = error_of(load, array), 2 if array.dtype == float else 256
    assert f"no value exceeds {white} is white" in message and scaling in message
    assert message.endswith(f"--config.data.levels={keep}")
    load(np.where(IMAGES == 107, array.dtype.type(1 if keep == 2 else 17), array))
    assert "every value is 0 (black)" in error_of(load, array * 0)
    message = error_of(datasets.check_levels, array, "x", in_file=False)  # as in Python
    assert "is white, pass images / " in message and message.endswith(f"pass images / {keep - 1}")


def test_one_image_is_told_from_many_by_the_shape_wanted(tmp_path):
    def read(shape, size=(), channels=0):
        np.save(tmp_path / "one.npy", np.full(shape, 200, np.uint8))
        options = datasets.DataOptions(image_size=size, channels=channels)
        return datasets.read_images(str(tmp_path / "one.npy"), options)[0]["all"].images.shape

    assert read((40, 30, 3), (40, 30), 3) == read((40, 30, 3), (40, 30)) == (1, 40, 30, 3)
    assert read((80, 60, 3), (40, 30), 3) == (1, 40, 30, 3)
    assert read((40, 30, 3), (40, 30), 1) == (1, 40, 30, 1)
    assert read((40, 30, 3), (30, 3), 1) == (40, 30, 3, 1)
    assert read((40, 30, 1), (40, 30), 1) == read((40, 30), (40, 30), 1) == (1, 40, 30, 1)
    assert read((40, 30, 1), (30, 1), 1) == (40, 30, 1, 1)
    assert read((7, 40, 30), (20, 15), 1) == (7, 20, 15, 1)
    for wanted in ((), ((28, 28), 1), ((28, 28),)):
        message = error_of(read, (40, 30, 3), *wanted)
        assert message.endswith("save it with the shape (1, 40, 30, 3) or (40, 30, 3, 1)")
    assert "may be one image" in error_of(read, (3, 3, 3), (3, 3))


def test_size_and_channels(load):
    dataset = load(IMAGES, image_size=(6, 8), channels=3)
    assert dataset.image_shape == (6, 8, 3)
    assert (dataset.train.images[..., 0] == dataset.train.images[..., 2]).all()
    color = np.stack([IMAGES, IMAGES, IMAGES], axis=-1)
    np.testing.assert_array_equal(joined(load(color, channels=1))[0][..., 0], IMAGES)
    assert load(IMAGES, image_size=(3, 2)).image_shape == (3, 2, 1)


@pytest.mark.parametrize(
    "labels",
    [
        *(LABELS, LABELS[:, None], LABELS.astype(np.uint8), LABELS.astype(np.float32)),
        *(np.eye(8, dtype=dtype)[LABELS] for dtype in (bool, np.int64, np.float32)),
        LABELS.astype("S"),
        LABELS.astype("U"),
    ],
)
def test_labels_become_indices(load, capfd, labels):
    dataset = load({"images": IMAGES, "labels": labels})
    assert dataset.class_names == ("1", "3", "7")
    indices = joined(dataset)[1]
    assert indices.dtype == np.int32
    np.testing.assert_array_equal(np.array([1, 3, 7])[indices], LABELS)
    assert capfd.readouterr().err == ""


def test_labels_may_be_any_text(load):
    names = np.array([b"dog", b"cat\xff", b"\xc3\xa9"] * 3)
    assert load({"images": IMAGES, "labels": names}).class_names == ("cat\\xff", "dog", "é")


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (np.tile([[1, 0, 1], [0, 1, 0], [0, 0, 0]], (3, 1)), "of all are int64[9, 3], not classes"),
        (LABELS / 2, "float64[9], not classes"),
        (np.full(9, np.nan), "float64[9], not classes"),
        (LABELS * 1j, "complex128[9], not classes"),
        (np.array([None] * 9), "'labels' is not read: Object arrays"),
    ],
)
def test_labels_that_are_not_classes_are_left_out(load, capfd, labels, expected):
    dataset = load({"images": IMAGES, "labels": labels})
    assert dataset.train.labels is None and dataset.class_names == ()
    shown = capfd.readouterr().err
    assert expected in shown and shown.count("\n") == 1


@pytest.mark.parametrize("name", ["y", "label", "labels"])
def test_names_of_labels_and_unknown_keys(load, capfd, name):
    dataset = load({"images": IMAGES, "a\nb": LABELS, "x_val": IMAGES, name: LABELS})
    np.testing.assert_array_equal(np.array([1, 3, 7])[joined(dataset)[1]], LABELS)
    assert capfd.readouterr().err.endswith("some images.npz': not read: 'a\\nb', 'x_val'\n")
    assert load({"images": IMAGES, "y": LABELS + 1, "labels": LABELS}).class_names[0] == "1"
    assert "not read: 'y'" in capfd.readouterr().err


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
@pytest.mark.parametrize("layout", ["{kind}_{split}", "{split}_{kind}"])  # Keras, MedMNIST
def test_splits_are_read_under_any_of_their_names(load, capfd, layout, name):
    kinds = "xy" if layout.startswith("{k") else ("images", "labels")
    rows = {"train": slice(0, 5), name: slice(5, 7), "test": slice(7, 9)}
    arrays = {
        layout.format(kind=kind, split=split): array[rows[split]]
        for split in rows
        for kind, array in zip(kinds, (IMAGES, LABELS[:, None]), strict=True)
    }
    dataset = load(arrays, validation_size=5_000, test_size=5_000)
    for split, part in zip(rows.values(), splits_of(dataset), strict=True):
        np.testing.assert_array_equal(part.images[..., 0], IMAGES[split])
        np.testing.assert_array_equal(np.array([1, 3, 7])[part.labels], LABELS[split])
    assert capfd.readouterr().err == ""
    arrays = {key: array for key, array in arrays.items() if "test" not in key}
    dataset = load(arrays, validation_size=5_000)
    assert [*map(len, splits_of(dataset))] == [4, 2, 1]
    assert "data.test_size 5 must leave" in error_of(load, arrays, test_size=5)
    del arrays[layout.format(kind=kinds[1], split=name)]  # the labels of one split alone are left
    assert load(arrays).train.labels is None
    assert "labels of validation are missing; all are left out" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("arrays", "expected"),
    [
        (IMAGES[0], "has the shape (3, 4), must be [n, height, width]"),
        (np.uint8(3), "has the shape ()"),
        (IMAGES[:, :0], "holds no images: its shape is (9, 0, 4)"),
        (IMAGES.astype(int), "is int64 from 0 to 107, must be uint8, or floats from 0 to 1"),
        (IMAGES.astype(np.float32), "is float32 from 0.0 to 107.0, must be"),
        (IMAGES / 200 - 0.1, "is float64 from -0.1 to"),
        (np.where(IMAGES == 50, np.nan, 0.5), "is float64 from nan to nan, must be"),
        ({"pictures": IMAGES, "y\n": LABELS}, "holds pictures, y\\n; must hold one of these"),
        ({"x_train": IMAGES}, "holds x_train; must"),
        ({"images": IMAGES, "labels": LABELS[:8]}, "9 images, but labels of the shape (8,)"),
        ({"x_train": IMAGES, "x_test": IMAGES[:, 1:]}, "the splits' images differ in shape"),
        ({"x_train": IMAGES, "x_test": IMAGES * 1j}, "npz: test is complex128, must be"),
    ],
)
def test_arrays_that_are_not_allowed(load, arrays, expected):
    assert expected in error_of(load, arrays)


class Marked:
    """Pickled, it would leave a file behind when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize("key", ["images", "labels"])
def test_objects_are_never_unpickled(load, tmp_path, key):
    objects = np.array([Marked(str(tmp_path / "unpickled"))] * 9, dtype=object)
    if key == "labels":
        load({"images": IMAGES, key: objects})
    else:
        for arrays in (objects, {key: objects}):
            assert "holds no array of numbers" in error_of(load, arrays)
    assert not (tmp_path / "unpickled").exists()


def npy(**header):
    """An .npy file with some entries of its header replaced."""
    file = io.BytesIO()
    entries = {"descr": "|u1", "fortran_order": False, "shape": IMAGES.shape} | header
    np.lib.format.write_array_header_1_0(file, entries)
    return file.getvalue() + IMAGES.tobytes()


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"no array\n" * 9, npy()[:20], npy()[:-1], b"\x80\x04K\x01."),
        *(npy(shape=(10**6, 10**3, 4)), npy(shape=(-9, -3, 4)), npy(descr="xyz")),
    ],
)
def test_damaged_files(tmp_path, content):
    (tmp_path / "a b.npy").write_bytes(content)
    with zipfile.ZipFile(tmp_path / "a b.NPZ", "w") as archive:
        archive.writestr("images.npy", content)
    (tmp_path / "cut.npz").write_bytes((tmp_path / "a b.NPZ").read_bytes()[:-30])
    for name in ("a b.npy", "a b.NPZ", "cut.npz"):
        assert f"{tmp_path}/{name}" in error_of(load_path, tmp_path / name)


def test_more_than_fits_in_memory(load, monkeypatch):
    def fail(*arguments, **options):
        raise MemoryError

    monkeypatch.setattr(array_files.np, "empty", fail)
    assert "more memory than this machine has" in error_of(load, IMAGES)


def test_a_header_of_absurd_size_is_refused_in_one_line(tmp_path):
    header = b"{'descr': '?', 'fortran_order': False, 'shape': (2147483648, 2147483648)}\n"
    path = tmp_path / "images.npy"
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    options = datasets.DataOptions(path=str(path))
    assert "is too short" in error_of(datasets.read_images, str(path), options)


@pytest.fixture
def stored(monkeypatch, tmp_path):
    """Stores images of every size, in small blocks; returns a function that loads a file."""
    monkeypatch.setattr(image_arrays, "_SMALL", 0)
    monkeypatch.setattr(array_files, "_BLOCK_BYTES", 30)
    monkeypatch.setattr(array_files, "_FORTRAN_BLOCK_BYTES", 70)

    def load_stored(path, **fields):
        options = datasets.DataOptions(**fields)
        splits, _ = datasets.read_images(str(path), options, tmp_path / "cache")
        assert all(isinstance(split.images, StoredImages) for split in splits.values())
        return {name: split.images for name, split in splits.items()}

    return load_stored


def save_array(path, array):
    if isinstance(array, dict):
        np.savez_compressed(path, **array)
    else:
        np.save(path, array)
    return path


COLOR = np.random.RandomState(0).randint(0, 256, (9, 3, 4, 3)).astype(np.uint8)


@pytest.mark.parametrize(
    ("array", "fields"),
    [
        *((COLOR, {"image_size": (2, 5)}), (COLOR, {"channels": 1}), (COLOR / 255, {})),
        *((np.asfortranarray(COLOR), {}), (np.asfortranarray(COLOR / 255), {})),
        ((COLOR > 99), {}),
        ((COLOR % 17).astype(np.int64), {"levels": 17}),
        ({"images": COLOR}, {}),
        ({"x_train": COLOR[:5], "x_test": COLOR[5:] / 255, "y_train": range(5)}, {"channels": 1}),
        ({"images": np.asfortranarray(COLOR / 255)}, {"image_size": (4, 4)}),
    ],
)
def test_converted_images_are_stored_once(stored, tmp_path, monkeypatch, array, fields):
    path = save_array(tmp_path / ("a.npz" if isinstance(array, dict) else "a.npy"), array)
    expected, _ = datasets.read_images(str(path), datasets.DataOptions(**fields))
    first = stored(path, **fields)
    monkeypatch.setattr(array_files.ArrayFile, "blocks", None)
    for images in (first, stored(path, **fields)):
        assert images.keys() == expected.keys()
        for name, split in expected.items():
            assert isinstance(split.images, np.ndarray)
            np.testing.assert_array_equal(images[name], split.images)
            assert images[name].checksums is not None and str(tmp_path) in images[name].path
    joined = datasets.concatenate([*images.values()])
    assert isinstance(joined, StoredImages) and len(joined) == 9
    assert len([*(tmp_path / "cache").iterdir()]) == 1
    monkeypatch.undo()


def test_bytes_in_order_stay_in_the_file(stored, tmp_path):
    path = save_array(tmp_path / "a.npy", COLOR)
    images = stored(path)["all"]
    assert images.path == str(path) and not (tmp_path / "cache").exists()
    np.testing.assert_array_equal(images, COLOR)
    save_array(path, ~COLOR)
    assert stored(path)["all"].key != images.key
    path.write_bytes(path.read_bytes()[:-1])
    images[:8]
    assert "have changed or are damaged; start again" in error_of(lambda: images[7:])
    save_array(path, COLOR // 16)
    assert "no value exceeds 15 and 255 is white" in error_of(stored, path)
    np.testing.assert_array_equal(stored(path, levels=256)["all"], COLOR // 16)


def test_stored_images_train_as_arrays_do(load, monkeypatch, tmp_path):
    images = np.random.RandomState(0).randint(0, 256, (9, 3, 4)).astype(np.uint8)
    expected = load(images)
    monkeypatch.setattr(image_arrays, "_SMALL", 0)
    for array in (images, images / 255):
        dataset = load(array, data_dir=str(tmp_path / "data"))
        assert isinstance(dataset.train.images, StoredImages)
        assert dataset.train.images.checksums is not None
        assert dataset.sha256 == expected.sha256
        np.testing.assert_array_equal(dataset.train_mean, expected.train_mean)
        np.testing.assert_array_equal(joined(dataset)[0], joined(expected)[0])


def test_a_refused_array_leaves_nothing_and_notes_are_repeated(stored, tmp_path, capfd):
    bad = COLOR / 255
    bad[8, 0, 0, 0] = np.nan
    path = save_array(tmp_path / "a.npy", bad)
    assert "is float64 from nan to nan, must be uint8" in error_of(stored, path)
    assert [*(tmp_path / "cache").iterdir()] == []
    save_array(path, np.linspace(0, 1, 9 * 12).reshape(9, 3, 4))
    for _ in range(2):
        capfd.readouterr()
        stored(path)
        assert "rounded to 256 levels, by up to 0.00" in capfd.readouterr().err


def test_an_archive_with_a_wrong_pixel_is_refused(stored, tmp_path):
    images = np.random.RandomState(0).randint(0, 256, (99, 9, 9)).astype(np.uint8)
    np.savez(tmp_path / "a.npz", images=images)
    content = bytearray((tmp_path / "a.npz").read_bytes())
    content[len(content) // 2] ^= 255
    (tmp_path / "a.npz").write_bytes(content)
    assert "cannot be read, is damaged" in error_of(stored, tmp_path / "a.npz")
    assert [*(tmp_path / "cache").iterdir()] == []
