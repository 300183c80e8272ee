"""Writes images to try `configs/images.py` on: 8 x 8 digits and 32 x 32 color patches.

  python benchmarks/example_images.py runs/images

`digits.npz` holds the 1,797 digits that come with scikit-learn, in ten classes; `patches.npz`
4,000 patches of its two photographs, in two classes.
"""

import argparse
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits, load_sample_images

_NUM_PATCHES = 2_000  # of each photograph
_PATCH_SIZE = 32
_DIGIT_LEVELS = 16


def digits() -> tuple[np.ndarray, np.ndarray]:
    """Returns images `<uint8>[1797, 8, 8]` and labels."""
    data = load_digits()
    return np.round(data.images * (255.0 / _DIGIT_LEVELS)).astype(np.uint8), data.target


def patches() -> tuple[np.ndarray, np.ndarray]:
    """Returns images `<uint8>[4000, 32, 32, 3]` and labels, the number of the photograph."""
    random, cut = np.random.default_rng(0), []
    photographs = load_sample_images().images
    for photograph in photographs:
        limits = np.array(photograph.shape[:2]) - _PATCH_SIZE
        for top, left in random.integers(0, limits, size=(_NUM_PATCHES, 2)):
            cut.append(photograph[top : top + _PATCH_SIZE, left : left + _PATCH_SIZE])
    return np.stack(cut), np.repeat(np.arange(len(photographs)), _NUM_PATCHES)


def main() -> None:
    """Writes both files."""
    parser = argparse.ArgumentParser(description="Writes images to try configs/images.py on.")
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    for name, make in (("digits", digits), ("patches", patches)):
        images, labels = make()
        np.savez(folder / f"{name}.npz", images=images, labels=labels)
        print(f"wrote {folder / name}.npz: {'x'.join(map(str, images.shape))}")


if __name__ == "__main__":
    main()
