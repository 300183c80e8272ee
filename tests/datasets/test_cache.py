"""Cached data: made once, made again if outdated or damaged, complete or absent."""

import concurrent.futures
import shutil

import pytest

from tests.support.common import error_of, full_disk
from vae_jax.datasets import cache


class Cached:
    """A cached folder with one file, and the number of times that it was made."""

    def __init__(self, folder):
        self.folder, self.num_made, self.meanwhile = folder, 0, lambda: None

    def load(self, key="key", content="content"):
        def make(made):
            self.num_made += 1
            (made / "data").write_text(content)
            meanwhile, self.meanwhile = self.meanwhile, lambda: None
            meanwhile()

        return (cache.make_once(self.folder, key, make) / "data").read_text()

    def names(self):
        return [path.name for path in self.folder.parent.iterdir()]


@pytest.fixture
def cached(tmp_path):
    return Cached(tmp_path / "cache" / "some data")


def test_data_are_made_once_for_each_key(cached, capfd):
    assert cached.load() == cached.load(content="other") == "content" and cached.num_made == 1
    assert capfd.readouterr().err == ""
    assert cached.load("new", "other") == cached.load("new") == "other" and cached.num_made == 2
    assert capfd.readouterr().err.count("\n") == 1
    assert cached.names() == ["some data"]


DAMAGE = {
    "flipped": lambda folder: (folder / "data").write_text("cOntent"),
    "no data": lambda folder: (folder / "data").unlink(),
    "no text": lambda folder: (folder / "SHA256SUMS").write_bytes(b"\xff"),
    "a file": lambda folder: (shutil.rmtree(folder), folder.write_text("data")),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_data_are_made_again(cached, capfd, damage):
    cached.load()
    DAMAGE[damage](cached.folder)
    assert cached.load() == cached.load() == "content" and cached.num_made == 2
    shown = capfd.readouterr().err
    assert shown.startswith(f"'{cached.folder}': outdated or damaged") and shown.count("\n") == 1
    assert cached.names() == ["some data"]


def test_a_folder_that_cannot_be_written(cached):
    cached.folder.parent.write_text("a file")
    message = error_of(cached.load)
    assert f"cannot write data to {cached.folder} (" in message
    assert "--config.data.data_dir=FOLDER" in message
    cached.folder.parent.unlink()
    with full_disk(3):
        assert "File too large" in error_of(cached.load)
    assert cached.names() == [] and cached.load() == "content"
    DAMAGE["flipped"](cached.folder)
    with full_disk(3):
        assert "File too large" in error_of(cached.load)
    assert (cached.folder / "data").read_text() == "cOntent"  # stays if it cannot be made again


def test_large_files_are_not_hashed(cached, monkeypatch):
    monkeypatch.setattr(cache, "_LARGE", 3)
    cached.load()
    DAMAGE["flipped"](cached.folder)
    assert cached.load() == "cOntent" and cached.num_made == 1
    (cached.folder / "data").write_text("longer content")
    assert cached.load() == "content" and cached.num_made == 2


def test_of_two_at_once_one_makes_the_data_and_the_other_waits(cached, capfd):
    with concurrent.futures.ThreadPoolExecutor(1) as pool:

        def start_another():
            waits = pool.submit(cached.load, content="other")
            assert not concurrent.futures.wait([waits], 0.2).done
            second.append(waits)

        second, cached.meanwhile = [], start_another
        assert cached.load() == second[0].result() == "content"
    assert cached.num_made == 1 and "waiting for another process" in capfd.readouterr().err
