"""Images that stay in a file and are read where rows of them are asked for."""

import dataclasses
import math
import zlib
from typing import Any

import numpy as np

from vae_jax.runtime.errors import UserError

_PER_IMAGE = ("offsets", "checksums", "is_gray")


# eq=False: comparing arrays field by field has no single truth value.
@dataclasses.dataclass(frozen=True, eq=False)
class StoredImages:
    """Images `<uint8>[n, height, width, channels]` in a file; indexing reads rows as an array.

    Not a memory map: its pages would count as the process's memory, and a file that another
    program truncates would end the process.
    """

    path: str
    image_shape: tuple[int, int, int]  # height, width and channels
    offsets: np.ndarray  # of each image in the file, in bytes, `<int64>[n]`
    checksums: np.ndarray  # CRC-32 of each image's bytes, `<uint32>[n]`, compared at each reading
    is_gray: np.ndarray  # whether an image has one channel in the file, `<bool>[n]`
    advice: str  # what to do if the file has changed or is damaged

    dtype = np.dtype(np.uint8)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """The shape of all images as an array."""
        return len(self), *self.image_shape

    @property
    def nbytes(self) -> int:
        """The size of all images as an array, in bytes."""
        return math.prod(self.shape)

    def __len__(self) -> int:
        return len(self.offsets)

    def select(self, rows: slice | np.ndarray) -> "StoredImages":
        """Returns some of the images, without reading them."""
        arrays = {name: getattr(self, name)[rows] for name in _PER_IMAGE}
        return dataclasses.replace(self, **arrays)

    def __getitem__(self, rows: Any) -> np.ndarray:
        """Reads an image, or several, `<uint8>[..., height, width, channels]`.

        Raises:
          UserError: the file cannot be read, or has changed.
        """
        if isinstance(rows, int | np.integer):
            return self[[rows]][0]
        try:
            return self.select(rows)._read()
        except OSError as error:
            raise UserError(f"{self.path}: cannot be read ({error.strerror})") from error

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Reads all images, for NumPy's functions."""
        return self[:] if dtype is None else self[:].astype(dtype)

    def _read(self) -> np.ndarray:
        height, width, channels = self.image_shape
        result = np.empty(self.shape, np.uint8)
        with open(self.path, "rb", buffering=0) as file:
            for row in np.argsort(self.offsets).tolist():  # once through the file, forward
                file.seek(int(self.offsets[row]))
                content = file.read(height * width * (1 if self.is_gray[row] else channels))
                if zlib.crc32(content) != self.checksums[row]:
                    raise UserError(
                        f"{self.path}: its images have changed or are damaged; {self.advice}"
                    )
                result[row] = np.frombuffer(content, np.uint8).reshape(height, width, -1)
        return result


Images = np.ndarray | StoredImages


def select(images: Images, rows: slice | np.ndarray) -> Images:
    """Returns some of the images; of stored ones, without reading them."""
    return images.select(rows) if isinstance(images, StoredImages) else images[rows]


def concatenate(pieces: list[Images]) -> Images:
    """Puts images of one file, or arrays, one after another; those of a file are not read."""
    first = pieces[0]
    if not isinstance(first, StoredImages):
        return np.concatenate([np.asarray(each) for each in pieces])
    arrays = {name: np.concatenate([getattr(each, name) for each in pieces]) for name in _PER_IMAGE}
    return dataclasses.replace(first, **arrays)
