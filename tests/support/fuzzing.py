"""Properties of what reads input we did not write, and strategies of inputs that try them.

`tests/test_fuzz.py` tries a few hundred inputs of each target, `benchmarks/fuzz.py` as many as it
is told to. An input is either accepted, and then what was read is right, or refused with a
`UserError` of one line; anything else is a crash.
"""

import contextlib
import dataclasses
import functools
import gzip
import io
import json
import math
import os
import random
import struct
import tempfile
import tracemalloc
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags
from hypothesis import strategies as st
from PIL import Image

from vae_jax import command_line, configuration, modes, shipped_configs
from vae_jax.datasets import DataOptions, image_cache, image_files, image_folder, read_images
from vae_jax.runtime.errors import UserError
from vae_jax.training import run_directory
from vae_jax.training.run_directory import RunDirectory

_QUICKSTART = configuration.flatten(shipped_configs.get_config("quickstart").to_dict())
_DEFAULT = shipped_configs.get_config()
_FIELDS = configuration.default_fields()
_GROUPS = sorted({path.rpartition(".")[0] for path in _FIELDS} - {""})

_MEBIBYTE = 2**20


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of one input."""

    accepted: bool
    peak_bytes: int  # allocated at one time, beyond what was before


@dataclasses.dataclass(frozen=True)
class Target:
    """Something that reads, the inputs to try it with, and the property it has to keep."""

    name: str
    inputs: st.SearchStrategy[Any]
    check: Callable[[Any], Outcome]  # raises whatever is wrong
    fraction: float  # of all inputs


def _read(read: Callable[[], Any]) -> tuple[Any, int]:
    """Returns the value of `read`, None if it refuses in one line, and its peak memory."""
    tracemalloc.start()
    value = None
    try:
        value = read()
    except UserError as error:
        message = str(error)
        assert message and message.isprintable(), f"not one line: {message!r}"
    finally:
        peak_bytes = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return value, peak_bytes


def _damaged(draw: st.DrawFn, data: bytes) -> bytes:
    """Cuts, flips a bit, overwrites, or appends."""
    place = draw(st.integers(0, max(len(data) - 1, 0)))
    kind = draw(st.sampled_from(["cut", "flip", "overwrite", "zeros", "garbage", "member"]))
    if kind == "cut":
        return data[:place]
    if kind == "flip" and data:
        flipped = data[place] ^ 1 << draw(st.integers(0, 7))
        return data[:place] + bytes([flipped]) + data[place + 1 :]
    if kind == "overwrite":
        written = draw(st.binary(max_size=8))
        return data[:place] + written + data[place + len(written) :]
    if kind == "member":
        return data + gzip.compress(draw(st.binary(max_size=20)), mtime=0)
    return data + (bytes(9) if kind == "zeros" else draw(st.binary(max_size=20)))


# Configurations.


def _assert_valid(config: Any) -> None:
    """A configuration that was accepted has its defaults' types and survives being written."""
    fields = config.to_dict()
    flat = configuration.flatten(fields)
    assert flat.keys() == _FIELDS.keys()
    for path, value in flat.items():
        allowed = (str, type(None)) if _FIELDS[path] is None else type(_FIELDS[path])
        assert isinstance(value, allowed), (path, value)
    with contextlib.suppress(OSError):  # and no ValueError
        os.stat(fields["data"]["data_dir"] or ".")
    written = json.loads(json.dumps(fields))
    assert configuration.from_dict(written).to_dict() == fields


def _check_config_json(content: bytes) -> Outcome:
    """Whatever `config.json` holds is a run's record, or damaged in one line."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "config.json").write_bytes(content)
        run, peak_bytes = _read(lambda: RunDirectory.open(folder))
        spec = None
        if run:
            spec, _ = _read(lambda: run.spec)
            for use in (
                lambda: run_directory.check_same_config(run, _DEFAULT),
                lambda: run_directory.check_resumes(run, _DEFAULT),
                lambda: run_directory.check_same_data(run, "0" * 64),
                lambda: run.label_index("--label", "7"),
            ):
                _read(use)
    assert peak_bytes <= 4 * _MEBIBYTE + 100 * len(content)
    if run:
        _assert_valid(run.config)
    if spec:
        assert len(spec.image_shape) == 3 and all(0 < size < 2**31 for size in spec.image_shape)
        assert all(isinstance(name, str) for name in spec.class_names)
    return Outcome(spec is not None, peak_bytes)


# With the surrogates, which stand for bytes of a command line that are not UTF-8.
_any_text = st.text(st.characters(exclude_characters="\0", exclude_categories=()), max_size=20)
_huge_ints = st.sampled_from([2**31, 2**32, 2**63, 2**64, 10**30, 10**400, 10**4299])
_scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), _huge_ints, st.floats(), _any_text, st.just("a\nb")
)
_json_values = st.recursive(
    _scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_any_text, inner, max_size=4),
    max_leaves=8,
)
# What stands in a JSON file and `json.dumps` does not write.
_json_fragments = st.sampled_from(
    (
        *("9" * 5_000, "-" + "9" * 5_000, "1e999", "NaN", "-Infinity", "-0", "1E-400"),
        *("[" * 3_000, "[" * 500 + "]" * 500, '{"a":' * 3_000, '{"a":' * 300 + "1" + "}" * 300),
        *('"\\ud800"', "true", "{}", "[]", "", ",", '"', '{"a": 1, "a": 2}', "\x00", "\ufeff"),
    )
)
_near_values = st.one_of(
    st.integers(-1, 5), st.lists(st.integers(0, 30) | _huge_ints, max_size=4), _scalars
)
_near_sizes = st.sampled_from([28, 28, 28, 28, 1, 0, -1, 2**31 - 1, 2**31, True, 1.5, "28"])
# Fields to change on their own, and values they may have: for inputs that pass every check.
_valid_values = {
    "seed": st.integers(0, 2**32 - 1),
    "latent_size": st.integers(1, 2**31 - 1),
    "data.name": st.sampled_from(["mnist", "mnist_5k"]),
    "data.data_dir": st.text("abc/.~", max_size=9) | _any_text,
    "encoder.kind": st.sampled_from(["lstm", "dense"]),
    "encoder.dense_sizes": st.lists(st.integers(1, 999), min_size=1).map(tuple),
    "decoder.filters": st.tuples(*[st.integers(1, 99)] * 3),
    "loss.kl_weight": st.floats(0, 9) | st.integers(0, 9),
    "train.batch_size": st.integers(1, 10**6),
    "train.learning_rate": st.floats(1e-9, 1) | st.integers(1, 9),
}


def _nested(fields: dict[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path, value in fields.items():
        group, _, name = path.rpartition(".")
        (tree.setdefault(group, {}) if group else tree)[name] = value
    return tree


@st.composite
def _records(draw: st.DrawFn) -> dict[str, Any]:
    """A run's record: whole, or with entries removed, replaced or added."""
    fields = _FIELDS | draw(st.fixed_dictionaries({}, optional=_valid_values))
    for _ in range(draw(st.sampled_from([0, 1, 1, 2]))):
        path = draw(st.sampled_from(sorted(_FIELDS)))
        if draw(st.integers(0, 4)):
            fields[path] = draw(_near_values | _json_values)
        else:
            fields.pop(path, None)
    tree = _nested(fields)
    if draw(st.integers(0, 5)) == 0:
        holder = draw(st.sampled_from([tree, *(tree[group] for group in _GROUPS if group in tree)]))
        holder[draw(_any_text | st.sampled_from(_GROUPS))] = draw(_json_values)
    record = {
        "config": tree,
        "data_sha256": "0" * 64,
        "image_shape": draw(st.just([28, 28, 1]) | st.tuples(*[_near_sizes] * 3)),
        "class_names": ["6", "7"],
    }
    if draw(st.booleans()):
        del record["class_names"]  # as in older records
    if draw(st.integers(0, 5)) == 0:
        record[draw(st.sampled_from(sorted(record)))] = draw(_near_values | _json_values)
    return record


@st.composite
def _json_files(draw: st.DrawFn) -> bytes:
    """A run's record as a file, in one of four with a piece of the text replaced."""
    text = json.dumps(draw(_records()), ensure_ascii=draw(st.booleans()))
    if draw(st.integers(0, 3)) == 0:
        begin = draw(st.integers(0, len(text)))
        end = begin + draw(st.integers(0, 10))
        if draw(st.booleans()):  # a whole value
            begin = text.find(": ", begin) + 2
            end = text.find(",", begin)
        text = text[:begin] + draw(_json_fragments | _any_text) + text[end:]
    return text.encode(errors="surrogatepass")


_config_json_inputs = st.one_of(
    st.binary(max_size=100),
    _json_values.map(lambda value: json.dumps(value).encode()),
    _json_fragments.map(str.encode),
    *[_json_files()] * 5,
)


# Overrides on the command line.

# All of them: what a mistaken flag imports is not counted.
_MODES = {name: modes.get_mode(name) for name in modes.MODES}


def _check_overrides(arguments: list[str]) -> Outcome:
    """Overrides give a valid configuration, or an error that does not blame the file."""

    def parse() -> Any:
        # As the command line does: the shared flags first, then what sets fields, then the mode's.
        known = flags.FlagValues()
        flags.DEFINE_string("config", None, "", flag_values=known)
        rest = command_line.parse_known(["main.py", *arguments], known)
        overrides, rest = command_line.read_overrides(rest, _QUICKSTART)
        config = configuration.from_fields(_QUICKSTART, overrides)
        _MODES["train"].parse(rest)
        return config

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Python, about an override's value
        config, peak_bytes = _read(parse)
    assert peak_bytes <= 8 * _MEBIBYTE + 100 * sum(map(len, arguments))
    if config is not None:
        _assert_valid(config)
    return Outcome(config is not None, peak_bytes)


_literals = st.sampled_from(
    (
        *("(" * 6, "(" * 5_000, "[" * 150 + "]" * 150, "-" * 5_000 + "1", "9" * 5_000, "9" * 400),
        *("1e999", "-1e999", "nan", "inf", "1_0", "0x10", "0o7", "1j", "True", "None", "", " "),
        *("(1,", "(1, 2", "()", "(,)", "[1, 2]", "{1: 2}", "{1, 2}", "'a'", "b'a'", "...", "'"),
        *("1+1j", "a, b", "a b", "(1, 'a')", "1if 1else 2", "f'{1}'", "x" * 100_000, "\ud800"),
    )
)
_values = st.one_of(_literals, _near_values.map(str), _any_text)


@st.composite
def _near_paths(draw: st.DrawFn) -> str:
    """A field's path with a piece of it replaced."""
    path = draw(st.sampled_from(sorted(_FIELDS)))
    begin = draw(st.integers(0, len(path)))
    end = begin + draw(st.integers(0, 3))
    return path[:begin] + draw(st.text("abc._[]'\"0 \n", max_size=3) | _any_text) + path[end:]


@st.composite
def _overrides(draw: st.DrawFn) -> list[str]:
    """One override, as one argument or two; in one of two a valid one."""
    if draw(st.booleans()):
        path = draw(st.sampled_from(sorted(_valid_values)))
        argument, value = f"--config.{path}", str(draw(_valid_values[path]))
    else:
        known = st.sampled_from(sorted(_FIELDS))
        other = st.sampled_from(_GROUPS) | _near_paths() | _any_text | st.just("x." * 5_000)
        dashes = draw(st.sampled_from(["--", "--", "--", "-", "--no", "-no"]))
        argument, value = f"{dashes}config.{draw(known | known | other)}", draw(_values)
        if draw(st.integers(0, 5)) == 0:
            return [argument]
    return [f"{argument}={value}"] if draw(st.integers(0, 3)) else [argument, value]


_override_inputs = st.lists(_overrides(), min_size=1, max_size=3).map(
    lambda overrides: [argument for override in overrides for argument in override]
)


# Images of one's own.

# Options that bring images to a size and number of channels.
_FITTED = (
    {},
    {"image_size": (3, 4)},
    {"channels": 1},
    {"image_size": (2, 5), "channels": 3},
)


def _assert_images(images: np.ndarray, image_size: tuple[int, ...] = (), channels: int = 0) -> None:
    """Images that were accepted have the type and shape of the options."""
    assert images.dtype == np.uint8 and images.ndim == 4 and 0 not in images.shape
    assert images.shape[3] in ((channels,) if channels else (1, 3))
    assert not image_size or images.shape[1:3] == image_size


def _check_image_file(value: tuple[str, bytes, dict[str, Any]]) -> Outcome:
    """An image file is decoded, or refused, in memory that what it decodes to justifies."""
    suffix, data, fitted = value
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / f"image{suffix}").write_bytes(data)
        files = image_folder.list_images(folder)
        decoded, peak_bytes = _read(lambda: image_files.decode(files, DataOptions(**fitted)))
    held = 0 if decoded is None else decoded.images.nbytes
    assert peak_bytes <= 8 * _MEBIBYTE + 20 * held
    if decoded is not None:
        assert len(decoded.images) == 1 and decoded.rows == [0]
        _assert_images(decoded.images, **fitted)
    return Outcome(decoded is not None, peak_bytes)


@functools.cache
def _image_bytes(mode: str, suffix: str, size: tuple[int, int]) -> bytes:
    values = np.random.RandomState(0).randint(0, 256, (size[1], size[0], 4)).astype(np.uint8)
    image = Image.fromarray(values).convert("RGB").convert(mode)
    file = io.BytesIO()
    image.save(file, Image.registered_extensions()[suffix])
    return file.getvalue()


@st.composite
def _image_inputs(draw: st.DrawFn) -> tuple[str, bytes, dict[str, Any]]:
    """Image files of each format, whole or damaged, and now and then under another's name."""
    Image.init()
    suffixes = (".png", ".jpg", ".bmp", ".gif", ".webp", ".tif", ".ppm", ".jp2")
    suffix = draw(st.sampled_from(suffixes))
    mode = draw(st.sampled_from(["RGB"] if suffix in (".webp", ".ppm", ".jp2") else ["L", "RGB"]))
    data = _image_bytes(mode, suffix, draw(st.sampled_from([(4, 3), (9, 8), (1, 1)])))
    for _ in range(draw(st.sampled_from([0, 1, 1, 2, 4]))):
        data = _damaged(draw, data)
    if draw(st.integers(0, 9)) == 0:
        suffix = draw(st.sampled_from(suffixes))
    return suffix, data, draw(st.sampled_from(_FITTED))


def _check_image_arrays(value: tuple[str, bytes, dict[str, Any]]) -> Outcome:
    """An .npz or .npy is read or refused."""
    suffix, data, fitted = value
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
        path = Path(folder) / f"images{suffix}"
        path.write_bytes(data)
        loaded, peak_bytes = _read(lambda: read_images(str(path), DataOptions(**fitted)))
    splits, class_names = loaded or ({}, ())
    for split in splits.values():
        _assert_images(split.images, **fitted)
        if split.labels is not None:
            assert split.labels.shape == (len(split.images),)
            assert split.labels.min() >= 0 and split.labels.max() < len(class_names)
    return Outcome(loaded is not None, peak_bytes)


@st.composite
def _npy_files(draw: st.DrawFn, count: int, shape: tuple[int, ...]) -> bytes:
    """Arrays in NumPy's format, whose header may lie in one place."""
    kind = draw(st.sampled_from(["u1", "u1", "u1", "<f4", "<f2", "<i8", "?", "<U2", "O", "<M8[s]"]))
    entries: dict[str, Any] = {"descr": kind, "fortran_order": False, "shape": (count, *shape)}
    size = count * math.prod(shape) * (8 if kind == "O" else np.dtype(kind).itemsize)
    if draw(st.integers(0, 3)) == 0:
        lengths = st.sampled_from([-1, 0, 1, 2, 3, 4, 2**31, 2**63, 2**70])
        lie = draw(st.sampled_from(["descr", "fortran_order", "shape"]))
        entries[lie] = {
            "descr": draw(st.sampled_from(["|V0", "<U0", "xyz", "", [("a", "u1")], None, 7, "O"])),
            "fortran_order": draw(st.sampled_from([True, None, 1])),
            "shape": tuple(draw(st.lists(lengths, max_size=5))),
        }[lie]
    header = f"{entries!r}\n".encode()
    content = random.Random(draw(st.integers(0, 99))).randbytes(size)
    if kind in ("<f4", "<f2") and draw(st.booleans()):
        content = np.linspace(0, 1, size // int(kind[2])).astype(kind).tobytes()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + content


@st.composite
def _array_inputs(draw: st.DrawFn) -> tuple[str, bytes, dict[str, Any]]:
    """Files of one array, or archives of several, whole or damaged."""
    count = draw(st.integers(0, 4))
    shape = draw(st.sampled_from([(3, 4), (3, 4, 1), (3, 4, 3), (3, 4, 2), (3,), (0, 4)]))
    suffix = draw(st.sampled_from([".npy", ".npz"]))
    if suffix == ".npy":
        data = draw(_npy_files(count, shape))
    else:
        known = [("images",), ("images", "labels"), ("x_train", "x_test"), ("train_images",)]
        file = io.BytesIO()
        compression = draw(st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]))
        with zipfile.ZipFile(file, "w", compression) as archive:
            for key in draw(st.sampled_from(known)):
                member = _npy_files(count, () if key == "labels" else shape)
                archive.writestr(f"{key}.npy", draw(member))
        data = file.getvalue()
    for _ in range(draw(st.sampled_from([0, 0, 1, 2]))):
        data = _damaged(draw, data)
    return suffix, data, draw(st.sampled_from(_FITTED))


def _cache(folder: str) -> np.ndarray:
    """Loads the images of a folder that holds `images/a.png`, by way of a cache."""
    files = image_folder.list_images(f"{folder}/images")
    return np.asarray(image_cache.load(files, DataOptions(), Path(folder, "cache")).images)


def _check_cached_images(damage: tuple[str, bytes]) -> Outcome:
    """Cached images are read if they are intact, else decoded again or refused in one line."""
    name, data = damage
    printed = io.StringIO()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(printed):
        Path(folder, "images").mkdir()
        Path(folder, "images", "a.png").write_bytes(_image_bytes("RGB", ".png", (4, 3)))
        expected = _cache(folder)
        [path] = Path(folder, "cache").glob(f"*/{name}")
        path.write_bytes(data or path.read_bytes())
        images, peak_bytes = _read(lambda: _cache(folder))
    if images is not None:
        np.testing.assert_array_equal(images, expected)
    assert peak_bytes <= 4 * _MEBIBYTE and printed.getvalue().count("\n") <= 1
    return Outcome(images is not None, peak_bytes)


@functools.cache
def _cached_file(name: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "images").mkdir()
        Path(folder, "images", "a.png").write_bytes(_image_bytes("RGB", ".png", (4, 3)))
        _cache(folder)
        return next(Path(folder, "cache").rglob(name)).read_bytes()


@st.composite
def _cached_inputs(draw: st.DrawFn) -> tuple[str, bytes]:
    """A file of a cache and its new content; nothing for its old content."""
    name = draw(st.sampled_from(["pixels.bin", "images.jsonl"]))
    if draw(st.integers(0, 3)) == 0:
        return name, b""
    if draw(st.integers(0, 3)) == 0:
        lies = ["{}", "[]", "1", "null", "00000000 []\n", "[" * 100_000]
        return name, draw(st.sampled_from(lies).map(str.encode) | _npy_files(1, (3, 4, 3)))
    return name, _damaged(draw, _cached_file(name))


TARGETS = (
    Target("config.json", _config_json_inputs, _check_config_json, 0.3),
    Target("overrides", _override_inputs, _check_overrides, 0.3),
    Target("image files", _image_inputs(), _check_image_file, 0.15),
    Target("image arrays", _array_inputs(), _check_image_arrays, 0.2),
    Target("cached images", _cached_inputs(), _check_cached_images, 0.05),
)
