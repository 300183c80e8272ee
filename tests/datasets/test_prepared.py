"""Preparing the official data sets: from a folder, from a server, and every way it fails."""

import functools
import gzip
import http.server
import json
import pathlib
import shutil
import socket
import threading
import time

import numpy as np
import pytest
import requests

from tests.support.common import MNIST_DIR, full_disk, needs_mnist
from vae_jax import datasets
from vae_jax.datasets import builder, network, official_files, prepared
from vae_jax.runtime.errors import UserError

TRAIN_IMAGES, TRAIN_LABELS = official_files.SPLIT_FILES["train"]
TEST_IMAGES, TEST_LABELS = official_files.SPLIT_FILES["test"]
WAYS_OUT = (
    "--config.data.manual_dir=FOLDER",
    "--config.data.data_dir=FOLDER",
    "--config.data.name=mnist_5k",
)


@pytest.fixture
def data_dir(tmp_path):
    return tmp_path / "data"


@pytest.fixture
def load(small_files, data_dir):
    return functools.partial(
        datasets.load,
        data_dir=str(data_dir),
        manual_dir=str(small_files.folder),
        validation_size=20,
    )


def prepared_folder(data_dir: pathlib.Path) -> pathlib.Path:
    return data_dir / "vae_jax_mnist" / "mnist" / "1.1.0"


def error_of(load) -> str:
    with pytest.raises(UserError) as caught:
        load()
    message = str(caught.value)
    assert "\n" not in message
    return message


def assert_nothing_prepared(data_dir: pathlib.Path) -> None:
    left = [path for path in data_dir.rglob("*") if "incomplete" in path.name]
    left += data_dir.glob("vae_jax_mnist/*/1.1.0")
    assert not left
    assert not list(data_dir.rglob("*array_record*"))


def assert_holds(dataset: datasets.Dataset, arrays: dict[str, np.ndarray]) -> None:
    for split, images, labels, rows in (
        (dataset.validation, TRAIN_IMAGES, TRAIN_LABELS, slice(None, 20)),
        (dataset.train, TRAIN_IMAGES, TRAIN_LABELS, slice(20, None)),
        (dataset.test, TEST_IMAGES, TEST_LABELS, slice(None)),
    ):
        assert split.images.dtype == split.labels.dtype == np.uint8
        np.testing.assert_array_equal(split.images[..., 0], arrays[images][rows])
        np.testing.assert_array_equal(split.labels, arrays[labels][rows])


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "kmnist"])
def test_prepares_from_a_folder(load, small_files, data_dir, name):
    dataset = load(name)
    assert dataset.name == name
    assert_holds(dataset, small_files.arrays)
    assert (data_dir / "vae_jax_mnist" / name / "1.1.0").is_dir()


def test_blocks_are_joined_in_order(load, small_files, monkeypatch):
    monkeypatch.setattr(builder, "IMAGES_PER_RECORD", 8)  # 9 records, the last one short
    assert_holds(load(), small_files.arrays)


def test_a_second_run_starts_from_the_prepared_files(load, small_files, monkeypatch):
    first = load()
    shutil.rmtree(small_files.folder)
    monkeypatch.setattr(builder.VaeJaxMnist, "download_and_prepare", None)
    monkeypatch.setattr(network, "why_unreachable", None)
    second = load(manual_dir=None)
    assert_holds(second, small_files.arrays)
    assert second.sha256 == first.sha256


@pytest.mark.parametrize("folder", ["default", None])
def test_default_data_dir_is_that_of_tensorflow_datasets(load, data_dir, monkeypatch, folder):
    from tensorflow_datasets.core import constants

    monkeypatch.setenv("HOME", str(data_dir))
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    if folder:
        monkeypatch.setenv("TFDS_DATA_DIR", str(data_dir / folder))
    load(data_dir="")
    assert prepared_folder(pathlib.Path(constants.get_default_data_dir())).is_dir()


def test_home_is_expanded(load, data_dir, monkeypatch):
    monkeypatch.setenv("HOME", str(data_dir.parent))
    load(data_dir="~/data", manual_dir="~/official")
    assert (data_dir / "vae_jax_mnist").is_dir()


def test_data_of_other_builders_are_neither_read_nor_touched(load, small_files, data_dir):
    other = data_dir / "mnist" / "3.0.1"
    other.mkdir(parents=True)
    (other / "dataset_info.json").write_text("{}")
    assert_holds(load(), small_files.arrays)
    assert [path.name for path in other.iterdir()] == ["dataset_info.json"]
    assert (other / "dataset_info.json").read_text() == "{}"


def test_is_quiet(load, capfd):
    load()
    output = capfd.readouterr()
    assert output.out == output.err == ""


def meanwhile(monkeypatch, act):
    """Does `act` once, after the next preparation and before it is put in its place."""
    prepare = builder.VaeJaxMnist.download_and_prepare

    def prepare_and_act(self, **kwargs):
        monkeypatch.setattr(builder.VaeJaxMnist, "download_and_prepare", prepare)
        prepare(self, **kwargs)
        act(self)

    monkeypatch.setattr(builder.VaeJaxMnist, "download_and_prepare", prepare_and_act)


def test_a_run_that_prepares_meanwhile_wins(load, small_files, data_dir, monkeypatch):
    others = []

    def load_too(_):
        assert_holds(load(), small_files.arrays)
        others.append(prepared_folder(data_dir).stat().st_ino)

    meanwhile(monkeypatch, load_too)
    assert_holds(load(), small_files.arrays)
    assert others == [prepared_folder(data_dir).stat().st_ino]


# Files that are not the official ones.


def _missing(path):
    path.unlink()


def _truncated(path):
    path.write_bytes(path.read_bytes()[:-20])


def _unpack(path):
    path.write_bytes(gzip.decompress(path.read_bytes()))


def _not_idx(path):
    path.write_bytes(b"<html>Not found</html>")


def _other_magic(path):
    path.write_bytes(gzip.compress(b"\0\0\x0d\x03" + gzip.decompress(path.read_bytes())[4:]))


def _longer(path):
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()) + b"\0"))


def _shorter(path):
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-1]))


def _other_content(path):
    data = bytearray(gzip.decompress(path.read_bytes()))
    data[-1] ^= 1
    path.write_bytes(gzip.compress(bytes(data)))


def _recompressed(path):
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()), compresslevel=1, mtime=1))


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (_missing, "is missing in data.manual_dir="),
        (_truncated, "truncated"),
        (_not_idx, "magic number 1013478509"),
        (_other_magic, "magic number 3331"),
        (_longer, "holds more"),
        (_shorter, "holds only"),
        (_other_content, "SHA-256"),
    ],
)
@pytest.mark.parametrize("file_name", official_files.FILE_NAMES)
def test_spoiled_file(load, small_files, data_dir, file_name, spoil, expected):
    spoil(small_files.folder / file_name)
    message = error_of(load)
    assert expected in message
    assert file_name in message and str(small_files.folder) in message
    assert not data_dir.exists()


def _rename(path, name):
    path.rename(path.with_name(name))


@pytest.mark.parametrize(
    "change",
    [
        _recompressed,
        _unpack,  # as browsers do, that keep the name
        lambda path: _rename(path, path.name.replace("-idx", ".idx")),
        lambda path: (_unpack(path), _rename(path, path.name.removesuffix(".gz"))),
        lambda path: (
            _unpack(path),
            _rename(path, path.name.replace("-idx", ".idx").removesuffix(".gz")),
        ),
    ],
)
def test_files_may_be_unpacked_and_have_a_dot(load, small_files, change):
    for file_name in official_files.FILE_NAMES:
        change(small_files.folder / file_name)
    assert_holds(load(), small_files.arrays)


@pytest.mark.parametrize("change", [_recompressed, _unpack])
def test_where_no_content_is_known_the_file_must_be_the_official_one(load, small_files, change):
    assert not official_files._CONTENT_SHA256["kmnist"]
    change(small_files.folder / TEST_LABELS)
    message = error_of(functools.partial(load, "kmnist"))
    assert "the official .gz file's is" in message and TEST_LABELS in message


@needs_mnist
def test_the_contents_of_mnist(tmp_path):
    for file_name in official_files.FILE_NAMES:
        content = gzip.decompress((pathlib.Path(MNIST_DIR) / file_name).read_bytes())
        unpacked = tmp_path / file_name.replace("-idx", ".idx").removesuffix(".gz")
        unpacked.write_bytes(content)
    splits = official_files.read("mnist", official_files.find(str(tmp_path)))
    assert [len(split) for split in splits.values()] == [60_000, 10_000]


def test_images_and_labels_that_differ_in_number(load, small_files, data_dir):
    shutil.copy(small_files.folder / TEST_LABELS, small_files.folder / TRAIN_LABELS)
    message = error_of(load)
    assert f"{TRAIN_IMAGES} holds 70 images" in message
    assert f"{TRAIN_LABELS} holds 30 labels" in message
    assert not data_dir.exists()


def test_manual_dir_that_is_no_folder(load, tmp_path, data_dir):
    message = error_of(functools.partial(load, manual_dir=str(tmp_path / "nowhere")))
    assert "nowhere is not a folder" in message and TEST_LABELS in message
    assert not data_dir.exists()


# The network.


class _Server(http.server.ThreadingHTTPServer):
    """Serves a folder and counts the requests."""

    daemon_threads = True

    def __init__(self, folder: pathlib.Path) -> None:
        self.num_requests = 0
        handler = functools.partial(_Handler, directory=str(folder))
        super().__init__(("127.0.0.1", 0), handler)


class _Handler(http.server.SimpleHTTPRequestHandler):
    def do_GET(self):
        self.server.num_requests += 1
        super().do_GET()

    def log_message(self, *args):
        pass


@pytest.fixture
def no_proxy(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def server(small_files, no_proxy):
    with _Server(small_files.folder) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        small_files.address = f"http://127.0.0.1:{server.server_port}/"
        yield server
        server.shutdown()


@pytest.fixture
def hanging_address(small_files, no_proxy):
    with socket.create_server(("127.0.0.1", 0)) as listener:  # accepts, never answers
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"


def assert_names_the_ways_out(message: str) -> None:
    for part in (*WAYS_OUT, *official_files.FILE_NAMES, "vae_jax_mnist/mnist/1.1.0"):
        assert part in message


def test_downloads(load, server, small_files, data_dir):
    assert_holds(load(manual_dir=None), small_files.arrays)
    assert server.num_requests == 5  # the probe and the four files
    assert [path.name for path in data_dir.iterdir()] == ["vae_jax_mnist"]


def test_nothing_is_downloaded_while_manual_dir_is_set(load, server, small_files):
    manual_dir = small_files.folder.parent / "manual"
    shutil.copytree(small_files.folder, manual_dir)
    (manual_dir / TEST_IMAGES).unlink()
    message = error_of(functools.partial(load, manual_dir=str(manual_dir)))
    assert f"{TEST_IMAGES} is missing in data.manual_dir={manual_dir}" in message
    assert server.num_requests == 0


@pytest.mark.parametrize("spoil", [_missing, _truncated, _other_content])
def test_spoiled_download(load, server, small_files, data_dir, spoil):
    spoil(small_files.folder / TEST_LABELS)
    assert_names_the_ways_out(error_of(functools.partial(load, manual_dir=None)))
    assert_nothing_prepared(data_dir)


def test_a_malformed_download_is_not_prepared(load, server, small_files, data_dir, monkeypatch):
    # With the checksum of the malformed file registered, so that it gets past the download.
    _other_magic(small_files.folder / TEST_LABELS)
    small_files.contents[TEST_LABELS] = (small_files.folder / TEST_LABELS).read_bytes()
    assert "magic number 3331" in error_of(functools.partial(load, manual_dir=None))
    assert_nothing_prepared(data_dir)


def test_no_network(load, data_dir):
    start = time.monotonic()
    assert_names_the_ways_out(error_of(functools.partial(load, manual_dir=None)))
    assert time.monotonic() - start < 20
    assert not data_dir.exists()


def test_the_time_limit_leaves_room_below_20_seconds():
    assert prepared.PROBE_SECONDS <= 12


def test_server_that_hangs(load, small_files, hanging_address, data_dir, monkeypatch):
    monkeypatch.setattr(prepared, "PROBE_SECONDS", 0.3)
    small_files.address = hanging_address
    start = time.monotonic()
    assert_names_the_ways_out(error_of(functools.partial(load, manual_dir=None)))
    assert time.monotonic() - start < 5
    assert not data_dir.exists()


def test_name_server_that_hangs(monkeypatch):
    # No timeout reaches a name server: the call simply does not return.
    monkeypatch.setattr(requests, "get", lambda *args, **kwargs: time.sleep(30))
    start = time.monotonic()
    assert network.why_unreachable("http://files.invalid/x", 0.2) == "no answer within 0.2 s"
    assert time.monotonic() - start < 5


def test_why_unreachable(server, small_files):
    assert network.why_unreachable(small_files.address + TRAIN_IMAGES, 5) is None
    assert network.why_unreachable(small_files.address + "x", 5) == "HTTP status 404"
    assert network.why_unreachable("http://files.invalid/x", 5) == "ConnectionError"
    assert network.why_unreachable("no address", 5) is not None


# Prepared data that are damaged.


def _records(folder):
    return next(folder.glob("*train*array_record*"))


def _delete_records(folder):
    _records(folder).unlink()


def _truncate_records(folder):
    path = _records(folder)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _empty_records(folder):
    _records(folder).write_bytes(b"")


def _flip_bits(folder):
    data = bytearray(_records(folder).read_bytes())
    data[len(data) // 2] ^= 0x10
    _records(folder).write_bytes(bytes(data))


def _exchange_records(folder):
    """The test records in the place of the training records: they decode without an error."""
    shutil.copy(next(folder.glob("*test*array_record*")), _records(folder))


def _rewrite_digest(folder):
    path = folder / "metadata.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"test": "0" * 64}))


def _delete_digest(folder):
    (folder / "metadata.json").unlink()


def _delete_description(folder):
    (folder / "dataset_info.json").unlink()


def _spoil_description(folder):
    (folder / "dataset_info.json").write_text("{\n")


def _delete_everything(folder):
    shutil.rmtree(folder)
    folder.mkdir()


SPOILS = [
    *(_delete_records, _truncate_records, _empty_records, _flip_bits, _exchange_records),
    *(_rewrite_digest, _delete_digest, _delete_description, _spoil_description),
    _delete_everything,
]


def assert_said_to_be_damaged(error_output: str, data_dir: pathlib.Path) -> None:
    assert error_output.count("\n") == 1
    assert error_output.startswith(f"{prepared_folder(data_dir)}: the prepared data are damaged (")
    assert error_output.endswith("; preparing again\n")


@pytest.mark.parametrize("spoil", SPOILS)
def test_damaged_data_are_prepared_again(load, small_files, data_dir, spoil, capfd):
    folder = prepared_folder(data_dir)
    first = load()
    spoil(folder)
    second = load()
    assert_holds(second, small_files.arrays)
    assert second.sha256 == first.sha256
    assert_said_to_be_damaged(capfd.readouterr().err, data_dir)
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    assert_holds(load(manual_dir=None), small_files.arrays)  # there is no network: from what lies
    assert capfd.readouterr().err == ""


def test_a_file_that_is_not_read_may_be_damaged(load, small_files, data_dir, capfd):
    load()
    (prepared_folder(data_dir) / "features.json").write_text("{")
    assert_holds(load(), small_files.arrays)
    assert capfd.readouterr().err == ""


def test_a_changed_byte_anywhere_in_the_records_does_no_harm(load, small_files, data_dir):
    load()
    path = _records(prepared_folder(data_dir))
    data = path.read_bytes()
    for place in range(0, len(data), len(data) // 25):
        path.write_bytes(data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :])
        assert_holds(load(), small_files.arrays)


def test_damaged_data_are_downloaded_again(load, server, small_files, data_dir, capfd):
    load()
    _flip_bits(prepared_folder(data_dir))
    assert_holds(load(manual_dir=None), small_files.arrays)
    assert server.num_requests == 5
    assert_said_to_be_damaged(capfd.readouterr().err, data_dir)


def _contents(folder: pathlib.Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_damaged_data_that_cannot_be_prepared_again_are_kept(load, data_dir, capfd):
    load()
    folder = prepared_folder(data_dir)
    _flip_bits(folder)
    damaged = _contents(folder)
    assert_names_the_ways_out(error_of(functools.partial(load, manual_dir=None)))
    assert_said_to_be_damaged(capfd.readouterr().err, data_dir)
    assert _contents(folder) == damaged
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_data_damaged_while_they_are_prepared(load, data_dir, monkeypatch):
    load()
    _flip_bits(prepared_folder(data_dir))
    damaged = _contents(prepared_folder(data_dir))
    meanwhile(monkeypatch, lambda made: _flip_bits(made.data_path))
    message = error_of(load)
    assert "damaged already" in message and "--config.data.data_dir=FOLDER" in message
    assert _contents(prepared_folder(data_dir)) == damaged


def test_two_runs_that_prepare_damaged_data_again(load, small_files, data_dir, monkeypatch):
    load()
    _flip_bits(prepared_folder(data_dir))
    meanwhile(monkeypatch, lambda _: assert_holds(load(), small_files.arrays))
    assert_holds(load(), small_files.arrays)


def test_data_removed_while_they_are_prepared_again(load, small_files, data_dir, monkeypatch):
    load()
    _flip_bits(prepared_folder(data_dir))
    meanwhile(monkeypatch, lambda _: shutil.rmtree(prepared_folder(data_dir)))
    assert_holds(load(), small_files.arrays)
    assert_holds(load(manual_dir=None), small_files.arrays)


# Prepared data that cannot be written.


def test_data_dir_that_cannot_be_written(load, data_dir):
    data_dir.write_text("a file, not a folder")
    message = error_of(load)
    assert str(data_dir) in message and "--config.data.data_dir=FOLDER" in message


@pytest.mark.parametrize("num_bytes", [1, 100, 20_000])
def test_a_disk_that_fills_up_while_data_are_prepared(load, small_files, data_dir, num_bytes):
    with full_disk(num_bytes):
        message = error_of(load)
    folder = prepared_folder(data_dir)
    assert message.startswith(f"cannot write prepared data to {folder} (File too large); give a ")
    assert_nothing_prepared(data_dir)
    assert_holds(load(), small_files.arrays)
