"""Reading IDX files: the right values, and one-line errors for whatever is wrong with a file."""

import gzip
import struct
import tracemalloc

import numpy as np
import pytest

from vae_jax.datasets import idx
from vae_jax.runtime.errors import UserError

IMAGES = np.arange(3 * 28 * 28, dtype=np.uint32).astype(np.uint8).reshape(3, 28, 28)
LABELS = np.array([5, 0, 9], np.uint8)


def image_file(images=IMAGES, magic=2051, count=None):
    count = len(images) if count is None else count
    return struct.pack(">IIII", magic, count, *images.shape[1:]) + images.tobytes()


def label_file(labels=LABELS, magic=2049, count=None):
    count = len(labels) if count is None else count
    return struct.pack(">II", magic, count) + labels.tobytes()


@pytest.fixture
def write(tmp_path):
    def write_bytes(data: bytes):
        path = tmp_path / "some-idx-ubyte.gz"
        path.write_bytes(data)
        return path

    return write_bytes


def error_of(read, path) -> str:
    with pytest.raises(UserError) as caught:
        read(path)
    message = str(caught.value)
    assert "\n" not in message
    assert "some-idx-ubyte.gz" in message
    return message


def test_images_are_read_as_written(write):
    images = idx.read_images(write(gzip.compress(image_file())))
    assert images.dtype == np.uint8
    np.testing.assert_array_equal(images, IMAGES)


def test_labels_are_read_as_written(write):
    labels = idx.read_labels(write(gzip.compress(label_file())))
    assert labels.dtype == np.uint8
    np.testing.assert_array_equal(labels, LABELS)


@pytest.mark.parametrize("kept", [4, 20, -1, -6, -400])
def test_truncated_gzip(write, kept):
    noisy = np.random.RandomState(0).randint(0, 256, size=(3, 28, 28)).astype(np.uint8)
    path = write(gzip.compress(image_file(noisy))[:kept])
    assert "truncated" in error_of(idx.read_images, path)


def test_corrupt_gzip(write):
    data = bytearray(gzip.compress(image_file()))
    data[-5] ^= 1  # in the stored length and checksum
    assert "not a valid gzip file" in error_of(idx.read_images, write(bytes(data)))
    data = bytearray(gzip.compress(image_file()))
    data[10] ^= 0x06  # the type of the first deflate block
    assert "not a valid gzip file" in error_of(idx.read_images, write(bytes(data)))


def test_not_gzip(write):
    np.testing.assert_array_equal(idx.read_images(write(image_file())), IMAGES)
    np.testing.assert_array_equal(idx.read_labels(write(label_file())), LABELS)
    message = error_of(idx.read_images, write(b"<html>\n\n</html>\n"))
    assert "magic number 1013478509" in message
    assert "holds only 2351" in error_of(idx.read_images, write(image_file()[:-1]))
    assert "holds more" in error_of(idx.read_images, write(image_file() + b"\0"))


@pytest.mark.parametrize(
    "data",
    [b"", gzip.compress(b""), gzip.compress(image_file()[:15])],
    ids=["no byte", "nothing compressed", "15 bytes compressed"],
)
def test_too_short_for_a_header(write, data):
    assert "header" in error_of(idx.read_images, write(data))


def test_missing_file_and_folder(tmp_path):
    path = tmp_path / "some-idx-ubyte.gz"
    assert "No such file" in error_of(idx.read_images, path)
    path.mkdir()
    assert "cannot be read" in error_of(idx.read_images, path)


def test_wrong_magic_number(write):
    message = error_of(idx.read_images, write(gzip.compress(image_file(magic=2049))))
    assert "magic number 2049" in message and "2051" in message
    message = error_of(idx.read_labels, write(gzip.compress(image_file())))
    assert "magic number 2051" in message and "2049" in message


def test_wrong_image_size(write):
    images = np.zeros((3, 32, 28), np.uint8)
    message = error_of(idx.read_images, write(gzip.compress(image_file(images))))
    assert "32x28" in message and "28x28" in message


def test_header_promises_more_than_the_file_holds(write):
    message = error_of(idx.read_images, write(gzip.compress(image_file(count=4))))
    assert "promises 4 images (3136 bytes)" in message and "holds only 2352" in message
    message = error_of(idx.read_labels, write(gzip.compress(label_file(count=4))))
    assert "promises 4 labels (4 bytes)" in message and "holds only 3" in message


def test_header_promises_fewer_than_the_file_holds(write):
    message = error_of(idx.read_images, write(gzip.compress(image_file(count=2))))
    assert "promises 2 images" in message and "holds more" in message
    # One byte too many, and a second gzip member, are more too.
    assert "holds more" in error_of(idx.read_images, write(gzip.compress(image_file() + b"\0")))
    two_members = gzip.compress(image_file()) + gzip.compress(b"\0" * 784)
    assert "holds more" in error_of(idx.read_images, write(two_members))


@pytest.mark.parametrize("count", [0, idx.MAX_ITEMS + 1, 2**32 - 1])
def test_absurd_count(write, count):
    message = error_of(idx.read_images, write(gzip.compress(image_file(count=count))))
    assert f"promises {count} images" in message


def test_label_out_of_range(write):
    message = error_of(idx.read_labels, write(gzip.compress(label_file(np.array([9, 10], "u1")))))
    assert "label 1 is 10" in message


def test_memory_follows_the_file_not_its_header(write):
    bomb = gzip.compress(label_file() + bytes(50_000_000))
    liar = gzip.compress(image_file(count=idx.MAX_ITEMS))
    for read, data, expected in (
        (idx.read_labels, bomb, "holds more"),
        (idx.read_images, liar, "holds only"),
    ):
        path = write(data)
        tracemalloc.start()
        assert expected in error_of(read, path)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 5_000_000
