"""Decoded images in a file that only grows: resumed, shared by processes, refused if damaged."""

import os

import numpy as np
import pytest
from PIL import Image

from tests.support.common import error_of, full_disk
from vae_jax.datasets import DataOptions, StoredImages, image_cache, image_files
from vae_jax.datasets.image_folder import list_images

COUNT = 6


class Photos:
    """A folder of images, their cache, and the numbers of the files that were decoded."""

    def __init__(self, folder):
        self.folder, self.cache, self.decoded = folder / "photos", folder / "cache", []
        self.folder.mkdir()
        for number in range(COUNT):
            self.save(number, number)

    def save(self, number, value, mode="L"):
        image = Image.new(mode, (4, 3), value if mode == "L" else (value, 0, 0))
        image.putpixel((3, 2), 255 if mode == "L" else (255, 255, 255))
        image.save(self.folder / f"{number}.png")

    def load(self, **fields):
        self.decoded.clear()
        options = DataOptions(data_dir=str(self.cache), **fields)
        return image_cache.load(list_images(str(self.folder)), options)[0]

    @property
    def num_stored(self):
        return (self.store / "images.jsonl").read_bytes().count(b"\n")

    @property
    def store(self):
        [store] = self.cache.glob("vae_jax/*")
        return store


@pytest.fixture
def photos(tmp_path, monkeypatch):
    result, read = Photos(tmp_path), image_files.read

    def count(path, options):
        result.decoded.append(int(os.path.basename(path)[0]))
        return read(path, options)

    monkeypatch.setattr(image_files, "read", count)
    return result


def values(images):
    return np.asarray(images)[:, 0, 0, 0].tolist()


def test_images_are_read_from_the_store(photos):
    first = photos.load()
    assert isinstance(first, StoredImages) and first.shape == (COUNT, 3, 4, 1)
    assert values(first) == [*range(COUNT)] == sorted(photos.decoded)
    assert values(photos.load()) == [*range(COUNT)] and photos.decoded == []
    photos.save(2, 200, "RGB")  # the set is color if one image is
    color = photos.load()
    assert photos.decoded == [2] and color.shape == (COUNT, 3, 4, 3)
    assert color[2][0, 0].tolist() == [200, 0, 0]
    assert color[[3]][0, 0, 0].tolist() == [3, 3, 3]
    assert values(first) == [*range(COUNT)]  # nothing is overwritten while others read it


@pytest.mark.parametrize("change", ["more", "fewer", "rename", "touch", "content"])
def test_only_changed_files_are_decoded_again(photos, change):
    photos.load()
    path = photos.folder / "5.png"
    changes = {
        "more": lambda: photos.save(6, 6),
        "fewer": path.unlink,
        "rename": lambda: path.rename(photos.folder / "7.png"),
        "touch": lambda: os.utime(path, ns=(1, 1)),
        "content": lambda: photos.save(5, 99),
    }
    changes[change]()
    expected = {"more": [*range(7)], "fewer": [*range(5)], "content": [*range(5), 99]}
    assert values(photos.load()) == expected.get(change, [*range(COUNT)])
    assert photos.decoded == {"more": [6], "fewer": [], "rename": [7]}.get(change, [5])


@pytest.mark.parametrize("tail", [b"", b"torn", b"0" * 300])
def test_a_killed_process_is_resumed(photos, tail):
    photos.load()
    journal = photos.store / "images.jsonl"
    whole = journal.read_bytes()
    ends = [place for place in range(len(whole)) if whole[place:].startswith(b"\n")]
    for num_whole, end in enumerate(ends):
        cut = end + 9  # in the middle of a line
        journal.write_bytes(whole[:cut] + tail)
        with open(photos.store / "pixels.bin", "ab") as file:
            file.write(b"pixels that the journal does not list")
        assert values(photos.load()) == [*range(COUNT)]
        assert sorted(photos.decoded) == [*range(num_whole, COUNT)]
    os.truncate(photos.store / "pixels.bin", 12 * 4 + 5)  # four images and a part
    assert values(photos.load()) == [*range(COUNT)] and sorted(photos.decoded) == [4, 5]


def test_an_error_keeps_the_images_before_it(photos):
    (photos.folder / "4.png").write_bytes(b"")
    assert "4.png: is empty" in error_of(photos.load) and photos.num_stored == 4
    photos.save(4, 4)
    assert values(photos.load()) == [*range(COUNT)] and photos.num_stored == COUNT
    (photos.folder / "4.png").write_bytes(b"")
    assert values(photos.load(skip_damaged=True)) == [0, 1, 2, 3, 5]
    Image.new("L", (9, 9), 99).save(photos.folder / "4.png")
    assert f"{photos.folder}/4.png (9, 9); give" in error_of(photos.load)


def test_damaged_pixels_are_refused_with_advice(photos):
    images = photos.load()
    pixels = bytearray((photos.store / "pixels.bin").read_bytes())
    pixels[30] ^= 1
    (photos.store / "pixels.bin").write_bytes(pixels)
    images[[0, 1]]
    message = error_of(lambda: images[[1, 2]])
    assert message.endswith(f"are damaged; delete the folder '{photos.store}', it is made again")
    (photos.store / "pixels.bin").unlink()
    assert "No such file" in error_of(lambda: images[0])
    assert values(photos.load()) == [*range(COUNT)]


def test_a_full_disk_keeps_the_images_before_it(photos):
    fields = {"image_size": (100, 100)}
    with full_disk(35_000):
        message = error_of(photos.load, **fields)
    assert f"cannot write data to {photos.store} (" in message and "File too large" in message
    assert photos.num_stored == 3
    assert photos.load(**fields).shape == (COUNT, 100, 100, 1) and photos.num_stored == COUNT
