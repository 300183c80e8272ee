"""Files that are whole or not there, and records that are read as they were written."""

import dataclasses
import os

import pytest

from vae_jax.runtime import files
from vae_jax.runtime.errors import UserError
from vae_jax.runtime.files import read_json, read_record, write_json, write_record


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    path.write_text("old")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="No space") as error:
        files.write_atomically(path, "new")
    assert error.value.filename == str(path)  # the system names none when a file is open
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.json"]


@dataclasses.dataclass(frozen=True)
class Inner:
    loss: float
    kl: float | None = None


@dataclasses.dataclass(frozen=True)
class Outer:
    inner: Inner
    names: list[str]
    count: int | None = None


def test_a_record_comes_back(tmp_path):
    record = Outer(Inner(1.5), ["a"])
    write_record(tmp_path / "a.json", record)
    assert read_json(tmp_path / "a.json") == {"inner": {"loss": 1.5}, "names": ["a"]}
    assert read_record(tmp_path / "a.json", Outer) == record


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"inner": {"loss": 1.5}}, 'missing value for field "names"'),
        ({"inner": {"loss": "low"}, "names": []}, 'wrong value type for field "inner.loss"'),
        ([], "damaged"),
    ],
)
def test_a_record_of_other_fields_is_damaged(tmp_path, content, expected):
    write_json(tmp_path / "a.json", content)
    with pytest.raises(UserError, match=expected) as error:
        read_record(tmp_path / "a.json", Outer)
    assert str(error.value).startswith(f"{tmp_path / 'a.json'}: ")
    assert str(error.value).endswith("; the file is damaged")


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_number_that_is_not_finite_is_no_json(tmp_path, number):
    with pytest.raises(UserError, match="not finite"):
        write_json(tmp_path / "a.json", {"a": number})
    assert not list(tmp_path.iterdir())
