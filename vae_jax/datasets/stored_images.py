"""Images that stay in a file and are read where rows of them are asked for."""

import dataclasses
import zlib
from typing import Any

import numpy as np

from vae_jax.runtime.errors import UserError, system_reason


# eq=False: comparing arrays field by field has no single truth value.
@dataclasses.dataclass(frozen=True, eq=False)
class StoredImages:
    """Images `<uint8>[n, height, width, channels]` in a file; indexing reads rows as an array.

    Not a memory map: its pages would count as the process's memory, and a file that another
    program truncates would end the process.

    Attributes:
      path: the file.
      key: a line that changes with the contents of the file.
      offsets: of each image in the file, in bytes, `<int64>[n]`.
      image_shape: height, width and channels.
      is_gray: whether an image has one channel in the file although `image_shape` has three,
        `<bool>[n]`; None if none has.
      checksums: CRC-32 of each image's bytes in the file, `<uint32>[n]`, compared whenever an
        image is read; None if they are not known.
      advice: what to do if the file has changed or is damaged.
    """

    path: str
    key: str
    offsets: np.ndarray
    image_shape: tuple[int, int, int]
    is_gray: np.ndarray | None = None
    checksums: np.ndarray | None = None
    advice: str = "start again, with another --workdir if this run has a checkpoint"

    dtype = np.dtype(np.uint8)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """The shape of all images as an array."""
        return len(self), *self.image_shape

    @property
    def nbytes(self) -> int:
        """The size of all images as an array, in bytes."""
        height, width, channels = self.image_shape
        return len(self) * height * width * channels

    def __len__(self) -> int:
        return len(self.offsets)

    def select(self, rows: slice | np.ndarray) -> "StoredImages":
        """Returns some of the images, without reading them."""
        return dataclasses.replace(
            self,
            offsets=self.offsets[rows],
            is_gray=None if self.is_gray is None else self.is_gray[rows],
            checksums=None if self.checksums is None else self.checksums[rows],
        )

    def __getitem__(self, rows: Any) -> np.ndarray:
        """Reads an image, or several, `<uint8>[..., height, width, channels]`.

        Raises:
          UserError: the file cannot be read, or has changed.
        """
        if isinstance(rows, int | np.integer):
            return self[[rows]][0]
        images = self.select(rows)
        result = np.empty(images.shape, np.uint8)
        try:
            images._read_into(result)
        except OSError as error:
            raise UserError(f"{self.path}: cannot be read ({system_reason(error)})") from error
        return result

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Reads all images, for NumPy's functions."""
        return self[:] if dtype is None else self[:].astype(dtype)

    def _read_into(self, result: np.ndarray) -> None:
        flat = result.reshape(len(result), -1)
        gray = np.empty(flat.shape[1] // self.image_shape[2], np.uint8)
        with open(self.path, "rb", buffering=0) as file:
            for row in np.argsort(self.offsets).tolist():  # once through the file, forward
                is_gray = self.is_gray is not None and self.is_gray[row]
                target = gray if is_gray else flat[row]
                file.seek(int(self.offsets[row]))
                is_complete = file.readinto(target.data) == target.size
                known = None if self.checksums is None else self.checksums[row]
                if not is_complete or (known is not None and zlib.crc32(target.data) != known):
                    raise UserError(
                        f"{self.path}: its images have changed or are damaged; {self.advice}"
                    )
                if is_gray:
                    flat[row] = gray.repeat(self.image_shape[2])


Images = np.ndarray | StoredImages


def select(images: Images, rows: slice | np.ndarray) -> Images:
    """Returns some of the images; of stored ones, without reading them."""
    return images.select(rows) if isinstance(images, StoredImages) else images[rows]


def concatenate(pieces: list[Images]) -> Images:
    """Puts images one after another; those of one file are not read."""
    first = pieces[0]
    if len(pieces) == 1:
        return first
    stored = [each for each in pieces if isinstance(each, StoredImages)]
    if len(stored) < len(pieces) or len({(s.path, s.image_shape) for s in stored}) > 1:
        return np.concatenate([np.asarray(each) for each in pieces])

    def join(name: str) -> np.ndarray:
        return np.concatenate([getattr(each, name) for each in stored])

    optional = {
        name: None if getattr(stored[0], name) is None else join(name)
        for name in ("is_gray", "checksums")
    }
    return dataclasses.replace(stored[0], offsets=join("offsets"), **optional)
