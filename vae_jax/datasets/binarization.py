"""Black and white images drawn from gray ones."""

import numpy as np

# The streams of the two evaluation splits under the seed below.
EVALUATION_STREAMS = {"validation": 0, "test": 1}

BINARIZATIONS = ("none", "dynamic")

# Part of the definition of the binarized validation and test sets: another seed is another test
# set, and likelihoods on the two are not comparable.
EVALUATION_BINARIZATION_SEED = 20_190_601


def binarize_for_evaluation(images: np.ndarray, split_name: str) -> np.ndarray:
    """Draws every pixel of an evaluation split once, always the same way.

    Each pixel of `<uint8>[n, height, width, channels]` becomes 255 with probability value / 255,
    else 0. "validation" and "test" have streams of their own: neither depends on the other's size.
    """
    # RandomState and not default_rng: NumPy promises never to change its stream.
    generator = np.random.RandomState(
        [EVALUATION_BINARIZATION_SEED, EVALUATION_STREAMS[split_name]]
    )
    # A threshold uniform on 0..254 lies below a value v with probability v / 255, exactly.
    thresholds = generator.randint(0, 255, size=images.shape, dtype=np.uint8)
    return np.where(thresholds < images, np.uint8(255), np.uint8(0))
