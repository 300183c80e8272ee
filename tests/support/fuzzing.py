"""Properties of what reads input we did not write, and strategies of inputs that try them.

`tests/test_fuzz.py` tries a few hundred inputs of each target, `benchmarks/fuzz.py` as many as it
is told to. An input is either accepted, and then what was read is right, or refused with a
`UserError` of one line; anything else is a crash.
"""

import contextlib
import functools
import io
import json
import math
import os
import random
import struct
import tempfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import hypothesis
import numpy as np
from absl import flags
from hypothesis import strategies as st
from PIL import Image

from vae_jax import command_line, configuration, modes, shipped_configs
from vae_jax.datasets import DataOptions, read_images
from vae_jax.runtime.errors import UserError
from vae_jax.training import run_directory
from vae_jax.training.run_directory import RunDirectory

_QUICKSTART = configuration.flatten(shipped_configs.get_config("quickstart").to_dict())
_DEFAULT = shipped_configs.get_config()
_FIELDS = configuration.default_fields()
SETTINGS = hypothesis.settings(
    database=None,
    deadline=None,
    suppress_health_check=list(hypothesis.HealthCheck),
)


class Target(NamedTuple):
    """Something that reads, the inputs to try it with, and the property it has to keep."""

    name: str
    inputs: st.SearchStrategy[Any]
    check: Callable[[Any], bool]  # whether the input is accepted; raises whatever is wrong
    fraction: float  # of all inputs


def _read(read: Callable[[], Any]) -> Any:
    """Returns the value of `read`, None if it refuses in one line."""
    try:
        return read()
    except UserError as error:
        message = str(error)
        assert message and message.isprintable(), f"not one line: {message!r}"
    return None


def _damaged(draw: st.DrawFn, data: bytes) -> bytes:
    """Cuts, flips a bit, or appends."""
    place = draw(st.integers(0, max(len(data) - 1, 0)))
    kind = draw(st.sampled_from(["cut", "flip", "append"]))
    if kind == "cut":
        return data[:place]
    if kind == "flip" and data:
        flipped = data[place] ^ 1 << draw(st.integers(0, 7))
        return data[:place] + bytes([flipped]) + data[place + 1 :]
    return data + draw(st.binary(max_size=20))


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


def _check_config_json(content: bytes) -> bool:
    """Whatever `config.json` holds is a run's record, or damaged in one line."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "config.json").write_bytes(content)
        run = _read(lambda: RunDirectory.open(folder))
        if not run:
            return False
        spec = _read(lambda: run.spec)
        for use in (
            lambda: run.with_config(_DEFAULT),
            lambda: run_directory.check_resumes(run, _DEFAULT),
            lambda: run_directory.check_same_data(run, "0" * 64),
            lambda: run.label_index("--label", "7"),
        ):
            _read(use)
    _assert_valid(run.config)
    if spec:
        assert len(spec.image_shape) == 3 and all(0 < size < 2**31 for size in spec.image_shape)
        assert all(isinstance(name, str) for name in spec.class_names)
    return spec is not None


# With the surrogates, which stand for bytes of a command line that are not UTF-8.
_any_text = st.text(st.characters(exclude_characters="\0", exclude_categories=()), max_size=20)
_huge_ints = st.sampled_from([2**31, 2**63, 10**30, 10**400])
_scalars = st.one_of(st.none(), st.booleans(), st.integers(-1, 5), _huge_ints, st.floats())
_json_values = st.recursive(
    _scalars | _any_text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_any_text, inner, max_size=4),
    max_leaves=8,
)
# What stands in a JSON file and `json.dumps` does not write.
_json_fragments = st.sampled_from(
    ["9" * 5_000, "1e999", "NaN", "[" * 99_999, '{"a":' * 300, '"\\ud800"', "{}", "[]", "", "\0"]
)
_near_sizes = st.sampled_from([28, 28, 28, 28, 1, 0, -1, 2**31 - 1, 2**31, True, 1.5, "28"])
# Fields to change on their own, and values they may have: for inputs that pass every check.
_valid_values = {
    "seed": st.integers(0, 2**32 - 1),
    "data.name": st.sampled_from(["mnist", "mnist_5k"]),
    "data.data_dir": st.text("abc/.~", max_size=9) | _any_text,
    "encoder.dense_sizes": st.lists(st.integers(1, 999), min_size=1).map(tuple),
    "loss.kl_weight": st.floats(0, 9) | st.integers(0, 9),
    "train.learning_rate": st.floats(1e-9, 1) | st.integers(1, 9),
}


@st.composite
def _json_files(draw: st.DrawFn) -> bytes:
    """A run's record as a file: whole, or with fields or a piece of the text replaced."""
    fields = draw(st.fixed_dictionaries({}, optional=_valid_values))
    if draw(st.booleans()):
        paths = st.sampled_from(sorted(_FIELDS)) | _any_text
        fields |= draw(st.dictionaries(paths, _json_values, max_size=2))
    tree = _DEFAULT.to_dict()
    for path, value in fields.items():
        group, _, name = path.rpartition(".")
        holder = tree.get(group)
        (holder if isinstance(holder, dict) else tree)[name] = value
    record = {
        "config": tree,
        "data_sha256": "0" * 64,
        "image_shape": draw(st.just([28, 28, 1]) | st.tuples(*[_near_sizes] * 3)),
        "class_names": ["6", "7"],
    }
    if draw(st.integers(0, 5)) == 0:
        record[draw(st.sampled_from(sorted(record)))] = draw(_json_values)
    text = json.dumps(record)
    if draw(st.integers(0, 3)) == 0:
        begin = text.find(": ", draw(st.integers(0, len(text)))) + 2
        text = text[:begin] + draw(_json_fragments | _any_text) + text[text.find(",", begin) :]
    return text.encode(errors="surrogatepass")


_config_json_inputs = st.one_of(
    st.binary(max_size=100),
    _json_values.map(lambda value: json.dumps(value).encode()),
    *[_json_files()] * 5,
)


# Overrides on the command line.

# All of them: what a mistaken flag imports is not counted.
_MODES = {name: modes.get_mode(name) for name in modes.MODES}


def _check_overrides(arguments: list[str]) -> bool:
    """Overrides give a valid configuration, or an error that does not blame the file."""

    def parse() -> Any:
        # As the command line does: the shared flags first, then what sets fields, then the mode's.
        known = flags.FlagValues()
        flags.DEFINE_string("config", None, "", flag_values=known)
        rest = command_line.parse_known(["main.py", *arguments], known)
        overrides, rest = command_line.read_overrides(rest, _QUICKSTART)
        config = configuration.from_dict(_QUICKSTART, overrides)
        _MODES["train"].parse(rest)
        return config

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Python, about an override's value
        config = _read(parse)
    if config is not None:
        _assert_valid(config)
    return config is not None


_literals = st.sampled_from(
    (
        *("(" * 5_000, "[" * 150 + "]" * 150, "-" * 5_000 + "1", "9" * 5_000, "1e999", "nan", "1j"),
        *("True", "None", "", "(1,", "(1, 2", "()", "(,)", "{1: 2}", "'a'", "...", "'", "a b"),
        *("(1, 'a')", "1if 1else 2", "f'{1}'", "x" * 100_000, "\ud800"),
    )
)


@st.composite
def _overrides(draw: st.DrawFn) -> list[str]:
    """One override, as one argument or two; in one of two a valid one."""
    if draw(st.booleans()):
        path = draw(st.sampled_from(sorted(_valid_values)))
        argument, value = f"--config.{path}", str(draw(_valid_values[path]))
    else:
        known = st.sampled_from(sorted(_FIELDS))
        other = known.map(lambda path: path[:-1]) | _any_text | st.just("x." * 5_000)
        dashes = draw(st.sampled_from(["--", "--", "-", "--no"]))
        argument = f"{dashes}config.{draw(known | other)}"
        value = draw(_literals | _scalars.map(str) | _any_text)
    return draw(st.sampled_from([[f"{argument}={value}"], [argument, value], [argument]]))


_override_inputs = st.lists(_overrides(), min_size=1, max_size=3).map(
    lambda overrides: [argument for override in overrides for argument in override]
)


# Images of one's own.

# Options that bring images to a size and number of channels.
_FITTED = ({}, {"image_size": (3, 4)}, {"channels": 1}, {"image_size": (2, 5), "channels": 3})


def _check_images(value: tuple[str, bytes, dict[str, Any]]) -> bool:
    """An image file or a file of arrays is read, to what the options say, or refused."""
    suffix, data, fitted = value
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
        path = Path(folder) / f"images{suffix}"
        path.write_bytes(data)
        options = DataOptions(data_dir=folder, **fitted)
        loaded = _read(lambda: read_images(str(path), options))
        splits, class_names = loaded or ({}, ())
        for split in splits.values():
            images = split.images[:]
            assert images.dtype == np.uint8 and images.ndim == 4 and 0 not in images.shape
            assert images.shape[3] in ((options.channels,) if options.channels else (1, 3))
            assert not options.image_size or images.shape[1:3] == options.image_size
            if split.labels is not None:
                assert split.labels.shape == (len(images),)
                assert split.labels.min() >= 0 and split.labels.max() < len(class_names)
    return loaded is not None


@functools.cache
def _image_bytes(suffix: str, size: tuple[int, int]) -> bytes:
    values = np.random.RandomState(0).randint(0, 256, (size[1], size[0], 3)).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(values).save(file, Image.registered_extensions()[suffix])
    return file.getvalue()


@st.composite
def _image_inputs(draw: st.DrawFn) -> tuple[str, bytes, dict[str, Any]]:
    """Image files of each format, whole or damaged, and now and then under another's name."""
    Image.init()
    suffixes = (".png", ".jpg", ".bmp", ".gif", ".webp", ".tif", ".ppm", ".jp2")
    suffix = draw(st.sampled_from(suffixes))
    data = _image_bytes(suffix, draw(st.sampled_from([(4, 3), (1, 1)])))
    for _ in range(draw(st.sampled_from([0, 1, 1, 2, 4]))):
        data = _damaged(draw, data)
    if draw(st.integers(0, 9)) == 0:
        suffix = draw(st.sampled_from(suffixes))
    return suffix, data, draw(st.sampled_from(_FITTED))


# What the header of an array may say instead of the truth.
_kinds = st.sampled_from(["|V0", "xyz", "", [("a", "u1")], None, 7])
_lengths = st.sampled_from([-1, 0, 1, 2, 3, 4, 2**31, 2**70])
_lies = st.one_of(
    _kinds.map(lambda kind: {"descr": kind}),
    st.sampled_from([True, None, 1]).map(lambda order: {"fortran_order": order}),
    st.lists(_lengths, max_size=5).map(lambda shape: {"shape": tuple(shape)}),
)


@st.composite
def _npy_files(draw: st.DrawFn, count: int, shape: tuple[int, ...]) -> bytes:
    """Arrays in NumPy's format, whose header may lie in one place."""
    kind = draw(st.sampled_from(["u1", "u1", "<f4", "<i8", "?", "<U2", "O"]))
    entries: dict[str, Any] = {"descr": kind, "fortran_order": False, "shape": (count, *shape)}
    size = count * math.prod(shape) * (8 if kind == "O" else np.dtype(kind).itemsize)
    if draw(st.integers(0, 3)) == 0:
        entries |= draw(_lies)
    header = f"{entries!r}\n".encode()
    content = random.Random(draw(st.integers(0, 99))).randbytes(size)
    if kind == "<f4":
        content = np.linspace(0, 1, size // 4, dtype=np.float32).tobytes()
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
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for key in draw(st.sampled_from(known)):
                member = _npy_files(count, () if key == "labels" else shape)
                archive.writestr(f"{key}.npy", draw(member))
        data = file.getvalue()
    for _ in range(draw(st.sampled_from([0, 0, 1, 2]))):
        data = _damaged(draw, data)
    return suffix, data, draw(st.sampled_from(_FITTED))


def _check_cached_images(damage: tuple[str, int, int]) -> bool:
    """Cached images are read if they are intact, else decoded again or refused in one line."""
    name, place, bit = damage
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):

        def read_folder() -> np.ndarray:
            options = DataOptions(data_dir=folder)
            return read_images(f"{folder}/images", options)[0]["all"].images[:]

        Path(folder, "images").mkdir()
        Path(folder, "images", "a.png").write_bytes(_image_bytes(".png", (4, 3)))
        expected = read_folder()
        [path] = Path(folder, "vae_jax").glob(f"*/{name}")
        content = path.read_bytes()
        # Cut off, or with a bit of every byte flipped.
        rest = b"" if bit == 8 else bytes(byte ^ 1 << bit for byte in content[place:])
        path.write_bytes(content[:place] + rest)
        images = _read(read_folder)
    if images is not None:
        np.testing.assert_array_equal(images, expected)
    return images is not None


_cached_inputs = st.tuples(
    st.sampled_from(["pixels.bin", "images.jsonl"]), st.integers(0, 200), st.integers(0, 8)
)
TARGETS = (
    Target("config.json", _config_json_inputs, _check_config_json, 0.3),
    Target("overrides", _override_inputs, _check_overrides, 0.3),
    Target("image files", _image_inputs(), _check_images, 0.15),
    Target("image arrays", _array_inputs(), _check_images, 0.2),
    Target("cached images", _cached_inputs, _check_cached_images, 0.05),
)
