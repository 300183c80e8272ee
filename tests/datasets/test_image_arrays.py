"""Images in .npz and .npy files: read as they are, or refused in one line, never unpickled."""

import io
import zipfile

import numpy as np
import pytest

from tests.support.common import error_of
from vae_jax import datasets
from vae_jax.datasets import DataOptions, StoredImages, image_arrays

IMAGES = np.arange(9 * 3 * 4, dtype=np.uint8).reshape(9, 3, 4)
LABELS = np.array([3, 3, 7, 1, 1, 3, 7, 7, 7])
BITS = IMAGES % 2
COLOR = np.random.RandomState(0).randint(0, 256, (9, 3, 4, 3)).astype(np.uint8)


@pytest.fixture
def load(tmp_path):
    """Saves an array, or arrays by key, and loads them as a data set."""

    def load_arrays(arrays, **fields):
        sizes = {"validation_size": 2, "test_size": 1, "data_dir": str(tmp_path / "cache")}
        return datasets.load("images", path=str(save_array(tmp_path, arrays)), **sizes | fields)

    return load_arrays


def save_array(folder, array):
    path = folder / ("some images.npz" if isinstance(array, dict) else "some images.npy")
    if isinstance(array, dict):
        np.savez_compressed(path, **array)
    else:
        np.save(path, array)
    return path


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
    assert dataset.sha256 == load({"images": images}).sha256 == load(images.astype(int)).sha256


@pytest.mark.parametrize("dtype", ["float16", "float32", ">f8"])
def test_floats_that_are_levels_lose_nothing(load, dtype):
    images = np.arange(256, dtype=np.uint8).reshape(16, 4, 4)
    np.testing.assert_array_equal(joined(load(images.astype(dtype) / 255))[0][..., 0], images)


@pytest.mark.parametrize(
    ("array", "levels", "white"),
    [
        (BITS, 2, 1),
        (BITS * np.uint16(4095), 4096, 4095),
        (BITS * 16.0, 17, 16),
        (BITS.astype(bool), 0, 1),
        (BITS, 256, 255),
        (np.arange(4096, dtype=np.uint16).reshape(64, 8, 8), 4096, 4095),
    ],
)
def test_values_are_scaled_by_the_levels_given(load, array, levels, white):
    result = joined(load({"images": array}, levels=levels))[0][..., 0]
    expected = np.rint(array * (255 / white)).astype(np.uint8)
    np.testing.assert_array_equal(np.unique(result, axis=0), np.unique(expected, axis=0))


@pytest.mark.parametrize(
    ("array", "white", "scaling"),
    [
        (BITS, "1 and 255", "--config.data.levels=2 if 1 is white"),
        (BITS * 16, "16 and 255", "--config.data.levels=17 if"),  # scikit-learn's digits
        (IMAGES / 255 / 255, "0.0016455 and 1", "scale them"),
    ],
)
def test_images_that_are_all_nearly_black_are_refused(load, array, white, scaling):
    message, keep = error_of(load, array), 2 if array.dtype == float else 256
    assert f"no value exceeds {white} is white" in message and scaling in message
    assert f"--config.data.levels={keep} if they" in message
    load(np.where(IMAGES == 107, array.dtype.type(1 if keep == 2 else 17), array))


@pytest.mark.parametrize("labels", [LABELS, LABELS.astype(np.uint8)[:, None], LABELS.astype("U")])
def test_labels_become_indices(load, capfd, labels):
    dataset = load({"images": IMAGES, "labels": labels})
    assert dataset.class_names == ("1", "3", "7")
    indices = joined(dataset)[1]
    assert indices.dtype == np.int32
    np.testing.assert_array_equal(np.array([1, 3, 7])[indices], LABELS)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("labels", [np.eye(9), LABELS / 2, LABELS[:8], LABELS.astype("S")])
def test_labels_that_are_not_classes_are_left_out(load, capfd, labels):
    dataset = load({"images": IMAGES, "labels": labels})
    assert dataset.train.labels is None and dataset.class_names == ()
    shown = capfd.readouterr().err
    assert "labels are left out" in shown and shown.count("\n") == 1


@pytest.mark.parametrize("name", ["y", "label", "labels"])
def test_names_of_labels_and_unknown_keys(load, capfd, name):
    dataset = load({"images": IMAGES, "a\nb": LABELS, "x_val": IMAGES, name: LABELS})
    np.testing.assert_array_equal(np.array([1, 3, 7])[joined(dataset)[1]], LABELS)
    assert capfd.readouterr().err.endswith("some images.npz': not read: 'a\\nb', 'x_val'\n")


@pytest.mark.parametrize("name", ["val", "validation"])
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
    del arrays[layout.format(kind=kinds[1], split=name)]  # the labels of one split alone are left
    assert load(arrays).train.labels is None


@pytest.mark.parametrize(
    ("arrays", "expected"),
    [
        (IMAGES[0], "has the shape (3, 4), must be [n, height, width]"),
        (COLOR[0], "has the shape (3, 4, 3), must be [n, height, width]"),  # or 3 gray images
        (IMAGES[:, :0], "holds no images: its shape is (9, 0, 4)"),
        (np.asfortranarray(IMAGES), "is in Fortran order"),
        (IMAGES.astype(int) * 9, "has int64 values from 0 to 963, must be from 0 to 255"),
        (IMAGES / 200 - 0.1, "has float64 values from -0.1 to"),
        (np.where(IMAGES == 50, np.nan, 0.5), "has float64 values from nan to nan, must be"),
        (IMAGES * 1j, "is complex128, must be numbers"),
        ({"pictures": IMAGES, "y\n": LABELS}, "holds pictures, y\\n; must hold one of these"),
        ({"x_train": IMAGES, "x_test": IMAGES[:, 1:]}, "the splits' images differ in shape"),
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


@pytest.mark.parametrize("key", ["images", "labels", None])
def test_objects_are_never_unpickled(load, tmp_path, key):
    objects = np.array([Marked(str(tmp_path / "unpickled"))] * 9, dtype=object)
    error_of(load, {"images": IMAGES} | {key: objects} if key else objects)
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
        npy(shape=(2**31, 2**31, 2**31)),
    ],
)
def test_damaged_files(tmp_path, content):
    (tmp_path / "a b.npy").write_bytes(content)
    with zipfile.ZipFile(tmp_path / "a b.NPZ", "w") as archive:
        archive.writestr("images.npy", content)
    (tmp_path / "cut.npz").write_bytes((tmp_path / "a b.NPZ").read_bytes()[:-30])
    for name in ("a b.npy", "a b.NPZ", "cut.npz"):
        path = str(tmp_path / name)
        assert path in error_of(datasets.read_images, path, DataOptions())


@pytest.fixture
def stored(monkeypatch, tmp_path):
    """Stores images of every size, in small blocks; returns a function that loads a file."""
    monkeypatch.setattr(image_arrays, "_SMALL", 0)
    monkeypatch.setattr(image_arrays, "_BLOCK_BYTES", 30)

    def load_stored(path, **fields):
        options = DataOptions(data_dir=str(tmp_path / "cache"), **fields)
        splits, _ = datasets.read_images(str(path), options)
        assert all(isinstance(split.images, StoredImages) for split in splits.values())
        return {name: split.images for name, split in splits.items()}

    return load_stored


@pytest.mark.parametrize(
    ("array", "fields"),
    [
        *((COLOR, {"image_size": (2, 5)}), (COLOR, {"channels": 1}), (COLOR / 255, {})),
        (IMAGES, {"image_size": (6, 8), "channels": 3}),
        *((COLOR > 99, {}), (COLOR, {})),
        ((COLOR % 17).astype(np.int64), {"levels": 17}),
        ({"images": COLOR}, {}),
        ({"x_train": COLOR[:5], "x_test": COLOR[5:] / 255, "y_train": range(5)}, {"channels": 1}),
    ],
)
def test_stored_images_are_those_in_memory(stored, tmp_path, monkeypatch, array, fields):
    path = save_array(tmp_path, array)
    with monkeypatch.context() as patch:
        patch.setattr(image_arrays, "_SMALL", 1 << 20)
        expected, _ = datasets.read_images(str(path), DataOptions(**fields))
    first = stored(path, **fields)
    monkeypatch.setattr(image_arrays.ArrayFile, "blocks", None)
    for images in (first, stored(path, **fields)):
        assert images.keys() == expected.keys()
        for name, split in expected.items():
            assert isinstance(split.images, np.ndarray)
            np.testing.assert_array_equal(images[name], split.images)
            size, channels = fields.get("image_size", (3, 4)), fields.get("channels", 3)
            assert split.images.shape[1:] == (*size, channels)
    both = datasets.concatenate([*first.values()])
    assert isinstance(both, StoredImages) and len(both) == 9
    assert len([*(tmp_path / "cache" / "vae_jax").iterdir()]) == 1


def test_bytes_in_order_stay_in_the_file(stored, tmp_path):
    path = save_array(tmp_path, COLOR)
    images = stored(path)["all"]
    assert images.path == str(path)
    np.testing.assert_array_equal(images, COLOR)
    path.write_bytes(path.read_bytes()[:-1] + bytes([~COLOR[-1, -1, -1, -1] & 255]))
    images[:8]
    assert "have changed or are damaged; start again" in error_of(lambda: images[7:])
    assert stored(path)["all"].checksums[-1] != images.checksums[-1]
    save_array(tmp_path, COLOR // 16)
    assert "no value exceeds 15 and 255 is white" in error_of(stored, path)
    np.testing.assert_array_equal(stored(path, levels=256)["all"], COLOR // 16)


def test_stored_images_train_as_arrays_do(load, monkeypatch):
    images = np.random.RandomState(0).randint(0, 256, (9, 3, 4)).astype(np.uint8)
    expected = load(images)
    monkeypatch.setattr(image_arrays, "_SMALL", 0)
    for array in (images, images / 255, images):  # the second time measured before
        dataset = load(array)
        assert isinstance(dataset.train.images, StoredImages)
        assert dataset.sha256 == expected.sha256
        np.testing.assert_array_equal(dataset.train_mean, expected.train_mean)
        np.testing.assert_array_equal(joined(dataset)[0], joined(expected)[0])


def test_an_archive_with_a_wrong_pixel_is_refused_and_leaves_nothing(stored, tmp_path):
    images = np.random.RandomState(0).randint(0, 256, (99, 9, 9)).astype(np.uint8)
    np.savez(tmp_path / "a.npz", images=images)
    content = bytearray((tmp_path / "a.npz").read_bytes())
    content[len(content) // 2] ^= 255
    (tmp_path / "a.npz").write_bytes(content)
    assert "cannot be read, is damaged" in error_of(stored, tmp_path / "a.npz")
    assert [*(tmp_path / "cache" / "vae_jax").iterdir()] == []
