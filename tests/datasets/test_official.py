"""The official data sets: from a folder, from a server, and from files that are not official."""

import functools
import http.server
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest

from tests.support.common import error_of, full_disk
from vae_jax import datasets
from vae_jax.datasets import cache, official

TRAIN_IMAGES, TRAIN_LABELS = official.FILES["train"]
TEST_IMAGES, TEST_LABELS = official.FILES["test"]


@pytest.fixture
def data_dir(tmp_path):
    return tmp_path / "data"


@pytest.fixture
def load(small_files, data_dir):
    folders = {"data_dir": str(data_dir), "manual_dir": str(small_files.folder)}
    return functools.partial(datasets.load, **folders, validation_size=20)


def assert_holds(dataset, arrays):
    for split, images, labels, rows in (
        (dataset.validation, TRAIN_IMAGES, TRAIN_LABELS, slice(None, 20)),
        (dataset.train, TRAIN_IMAGES, TRAIN_LABELS, slice(20, None)),
        (dataset.test, TEST_IMAGES, TEST_LABELS, slice(None)),
    ):
        assert split.images.dtype == split.labels.dtype == np.uint8
        np.testing.assert_array_equal(split.images[..., 0], arrays[images][rows])
        np.testing.assert_array_equal(split.labels, arrays[labels][rows])


@pytest.mark.parametrize("name", ["mnist", "kmnist"])
def test_data_are_stored_once(load, small_files, data_dir, monkeypatch, capfd, name):
    first = load(name)
    assert_holds(first, small_files.arrays)
    shutil.rmtree(small_files.folder)
    monkeypatch.setattr(official.VaeJaxMnist, "download_and_prepare", None)
    second = load(name, manual_dir=None)
    assert_holds(second, small_files.arrays)
    assert second.name == name and second.sha256 == first.sha256
    assert [*data_dir.iterdir()] == [data_dir / "vae_jax"]
    assert [*data_dir.glob("*/*")] == [data_dir / "vae_jax" / name]
    assert capfd.readouterr() == ("", "")


def test_default_data_dir_is_that_of_tensorflow_datasets(monkeypatch):
    for folder in ("", "/default"):
        monkeypatch.setenv("TFDS_DATA_DIR", folder)
        expected = Path(folder or "~/tensorflow_datasets").expanduser()
        assert cache.cache_folder(None) == expected / "vae_jax"


def missing(path):
    path.unlink()


def truncated(path):
    path.write_bytes(path.read_bytes()[:-20])


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [(missing, "is missing; put"), (truncated, "is not the official")],
)
def test_spoiled_file(load, small_files, data_dir, spoil, expected):
    spoil(small_files.folder / TEST_LABELS)
    message = error_of(load)
    assert expected in message and TEST_LABELS in message and str(small_files.folder) in message
    assert not [*data_dir.glob("vae_jax/*")]


class Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture
def server(small_files, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    handler = functools.partial(Handler, directory=str(small_files.folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        small_files.address = f"http://127.0.0.1:{server.server_port}/"
        yield
        server.shutdown()


def assert_names_the_alternatives(message):
    for part in ("manual_dir=FOLDER", "name=mnist_5k", *official.FILE_NAMES):
        assert part in message


def test_downloads(load, server, small_files, data_dir):
    assert "is missing; put" in error_of(load, manual_dir=str(data_dir))  # nothing is downloaded
    assert_holds(load(manual_dir=None), small_files.arrays)
    assert [path.name for path in data_dir.iterdir()] == ["vae_jax"]


def test_spoiled_download(load, server, small_files, data_dir):
    truncated(small_files.folder / TEST_LABELS)
    assert_names_the_alternatives(error_of(load, manual_dir=None))
    assert not (data_dir / "vae_jax" / "mnist").exists()


def test_no_network(load, data_dir):
    assert_names_the_alternatives(error_of(load, manual_dir=None))
    assert not [*data_dir.glob("vae_jax/*")]


def test_damaged_data_are_stored_again(load, server, small_files, data_dir, capfd):
    load()
    path = next(data_dir.rglob("*train*array_record*"))
    data = path.read_bytes()
    path.write_bytes(data[:2000] + bytes([data[2000] ^ 0x10]) + data[2001:])
    assert_holds(load(manual_dir=None), small_files.arrays)
    assert "outdated or damaged" in capfd.readouterr().err


def test_a_disk_that_fills_up_while_data_are_stored(load, small_files, data_dir):
    with full_disk(20_000):
        message = error_of(load)
    assert f"cannot write data to {data_dir}/vae_jax/mnist (" in message
    assert "File too large" in message
    assert not [*data_dir.glob("vae_jax/*")]
    assert_holds(load(), small_files.arrays)
