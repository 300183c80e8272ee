"""Files of images and arrays that modes write. Images are intensities, cut to [0, 1]."""

import contextlib
import io
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from vae_jax.model.likelihoods import MAX_PIXEL
from vae_jax.runtime.errors import UserError
from vae_jax.runtime.files import atomic_file, write_atomically

_MIN_SIDE = 75  # pixels of a grid that a small image's longer side has, about
_GAP = 2  # white pixels between images


def _write_png(path: Path, image: np.ndarray, scale: int = 1) -> None:
    """Writes an image `<float>[height, width, channels]`, enlarged by a whole number."""
    pixels = np.rint(image.clip(0.0, 1.0) * MAX_PIXEL).astype(np.uint8)
    pixels = pixels.repeat(scale, axis=0).repeat(scale, axis=1)
    png = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(png, "png")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, png.getvalue())


def tile(images: np.ndarray) -> np.ndarray:
    """Lays `<float>[rows, columns, height, width, channels]` out as one image with gaps."""
    rows, columns, height, width, channels = images.shape
    gaps = ((0, 0), (0, 0), (0, _GAP), (0, _GAP), (0, 0))
    padded = np.pad(images, gaps, constant_values=1.0).swapaxes(1, 2)
    page = padded.reshape(rows * (height + _GAP), columns * (width + _GAP), channels)
    return page[:-_GAP, :-_GAP]


def save_grid(path: Path, images: np.ndarray) -> None:
    """Saves images `<float>[rows, columns, height, width, channels]` as one picture."""
    scale = max(1, round(_MIN_SIDE / max(images.shape[2:4])))
    _write_png(path, tile(images), scale)


def png_writer(
    folder: Path, num_images: int, names: np.ndarray | None = None
) -> Callable[[np.ndarray], None]:
    """Returns a function that writes the next images of a folder as PNG files.

    Its images are `<float>[n, height, width, channels]`. Names are `<str>[num_images]`, subfolders
    included. If None, numbers replace all files whose names are numbers.

    Raises:
      UserError: two files would have the same name.
    """
    if names is None:
        for path in folder.glob("*.png"):
            if path.stem.isdecimal():
                path.unlink()
        width = len(str(num_images - 1))
        names = np.array([f"{row:0{width}}.png" for row in range(num_images)])
    files = [name if name.lower().endswith(".png") else f"{name}.png" for name in names.tolist()]
    if len({*files}) < len(files):
        twice = next(file for index, file in enumerate(files) if file in files[:index])
        raise UserError(f"two images would be written to {twice!r}; rename one")
    left = iter(files)

    def write(images: np.ndarray) -> None:
        for image, file in zip(images, left, strict=False):
            _write_png(folder / file, image)

    return write


@contextlib.contextmanager
def npy_file(path: Path, num_rows: int) -> Iterator[Callable[[np.ndarray], None]]:
    """Gives a function that appends rows to an `.npy` file, which appears when all are written."""
    with atomic_file(path) as file:

        def write(rows: np.ndarray) -> None:
            rows = np.ascontiguousarray(rows)
            if not file.tell():
                header = np.lib.format.header_data_from_array_1_0(rows)
                header["shape"] = (num_rows, *rows.shape[1:])
                np.lib.format.write_array_header_1_0(file, header)
            file.write(rows.data)

        yield write


def write_npy(path: Path, array: np.ndarray) -> None:
    """Writes an array as `.npy`, atomically."""
    with atomic_file(path) as file:
        np.save(file, array)
