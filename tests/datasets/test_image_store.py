"""Decoded images in a file that only grows: resumed, shared by processes, refused if damaged."""

import os
import threading
import time

import numpy as np
import pytest
from PIL import Image

from tests.support.common import error_of, full_disk
from vae_jax.datasets import DataOptions, StoredImages, image_cache, image_files
from vae_jax.datasets.image_folder import list_images
from vae_jax.runtime.locks import locked_folder

COUNT = 6


class Photos:
    """A folder of images, their cache, and the names of the files that were decoded."""

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
        folder = list_images(str(self.folder))
        return image_cache.load(folder, DataOptions(**fields), self.cache)

    @property
    def store(self):
        [store] = self.cache.iterdir()
        return store


@pytest.fixture
def photos(tmp_path, monkeypatch):
    result, read = Photos(tmp_path), image_files.read

    def count(path, options):
        result.decoded.append(int(os.path.basename(path)[0]))
        return read(path, options)

    monkeypatch.setattr(image_files, "read", count)
    return result


def values(decoded):
    return np.asarray(decoded.images)[:, 0, 0, 0].tolist()


def test_images_are_read_from_the_store(photos):
    first = photos.load()
    assert isinstance(first.images, StoredImages) and first.images.shape == (COUNT, 3, 4, 1)
    assert values(first) == [*range(COUNT)] == sorted(photos.decoded)
    again = photos.load()
    assert values(again) == [*range(COUNT)] and len(photos.decoded) == COUNT
    assert again.images.key == first.images.key
    photos.save(2, 200, "RGB")  # the set is color if one image is
    color = photos.load()
    assert photos.decoded[COUNT:] == [2] and color.images.key != first.images.key
    assert color.images.shape == (COUNT, 3, 4, 3)
    assert color.images[2][0, 0].tolist() == [200, 0, 0]
    assert color.images[[3]][0, 0, 0].tolist() == [3, 3, 3]
    assert values(first) == [*range(COUNT)]  # nothing is overwritten while others read it


@pytest.mark.parametrize("tail", [b"", b"torn", b"0" * 300])
def test_a_killed_process_is_resumed(photos, tail):
    photos.load()
    journal = photos.store / "images.jsonl"
    whole = journal.read_bytes()
    header, *lines = whole.splitlines(keepends=True)
    for num_whole, line in enumerate(lines):
        cut = len(header) + sum(map(len, lines[:num_whole])) + len(line) // 2
        journal.write_bytes(whole[:cut] + tail)
        with open(photos.store / "pixels.bin", "ab") as file:
            file.write(b"pixels that the journal does not list")
        photos.decoded.clear()
        assert values(photos.load()) == [*range(COUNT)]
        assert sorted(photos.decoded) == [*range(num_whole, COUNT)]
    os.truncate(photos.store / "pixels.bin", 12 * 4 + 5)  # four images and a part
    photos.decoded.clear()
    assert values(photos.load()) == [*range(COUNT)] and sorted(photos.decoded) == [4, 5]


def test_an_error_keeps_the_images_before_it(photos):
    (photos.folder / "4.png").write_bytes(b"")
    assert "4.png: is empty" in error_of(photos.load)
    photos.save(4, 4)
    photos.decoded.clear()
    assert values(photos.load()) == [*range(COUNT)] and sorted(photos.decoded) == [4, 5]
    (photos.folder / "4.png").write_bytes(b"")
    photos.decoded.clear()
    for _ in range(2):
        assert photos.load(skip_damaged=True).rows == [0, 1, 2, 3, 5]
    assert photos.decoded == [4]  # the reason is in the journal too
    assert "4.png: is empty" in error_of(photos.load)
    Image.new("L", (9, 9), 99).save(photos.folder / "4.png")
    assert f"{photos.folder}/0.png has 3x4 pixels" in error_of(photos.load)


def test_a_store_of_another_version_or_mostly_garbage_is_made_anew(photos, monkeypatch):
    photos.load()
    for number in range(4):
        photos.save(number, 100)
    photos.decoded.clear()
    assert values(photos.load()) == [100] * 4 + [4, 5] and sorted(photos.decoded) == [*range(COUNT)]
    assert (photos.store / "pixels.bin").stat().st_size == COUNT * 12
    monkeypatch.setattr(image_cache.PIL, "__version__", "other")
    (photos.store / "SHA256SUMS").touch()
    photos.decoded.clear()
    assert values(photos.load()) == [100] * 4 + [4, 5] and len(photos.decoded) == COUNT
    assert {path.name for path in photos.store.iterdir()} == {"pixels.bin", "images.jsonl"}


def test_damaged_pixels_are_refused_with_advice(photos):
    images = photos.load().images
    pixels = bytearray((photos.store / "pixels.bin").read_bytes())
    pixels[30] ^= 1
    (photos.store / "pixels.bin").write_bytes(pixels)
    images[[0, 1]]
    message = error_of(lambda: images[[1, 2]])
    assert message.endswith(f"are damaged; delete the folder '{photos.store}', it is made again")
    (photos.store / "pixels.bin").unlink()
    assert "No such file" in error_of(lambda: images[0])
    assert values(photos.load()) == [*range(COUNT)]


def test_a_full_disk_keeps_the_images_before_it(photos, monkeypatch):
    monkeypatch.setattr(image_cache, "_SECONDS_UNSAVED", -1)
    fields = {"image_size": (100, 100)}
    with full_disk(35_000):
        message = error_of(photos.load, **fields)
    assert f"cannot write data to {photos.store} (File too large)" in message
    photos.decoded.clear()
    assert photos.load(**fields).images.shape == (COUNT, 100, 100, 1)
    assert sorted(photos.decoded) == [3, 4, 5]


def test_a_second_process_waits_and_decodes_nothing(photos, capfd):
    photos.load()
    whole = (photos.store / "images.jsonl").read_bytes()
    (photos.store / "images.jsonl").write_bytes(whole[:-1])
    photos.decoded.clear()
    thread = threading.Thread(target=photos.load)
    with locked_folder(photos.store):
        thread.start()
        shown, start = "", time.monotonic()
        while not shown and time.monotonic() - start < 10:
            shown = capfd.readouterr().err
        (photos.store / "images.jsonl").write_bytes(whole)  # by the process that it waits for
    thread.join()
    assert "waiting for another process" in shown and shown.count("\n") == 1
    assert photos.decoded == []


def test_few_values_are_computed_ahead(monkeypatch):
    monkeypatch.setattr(image_files, "available_cores", lambda: 2)
    started = []
    results = image_files.map_on_cores(lambda item: started.append(item) or item, range(100))
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    time.sleep(0.05)
    assert len(started) <= 3 + 4 * 2
    assert [*results] == [*range(3, 100)] and len(started) == 100
