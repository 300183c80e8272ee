"""Trains the digit classifier and writes its weights, in half precision.

python benchmarks/train_digit_classifier.py --output=vae_jax/evaluation/digit_classifier.npz
"""

import argparse
from pathlib import Path

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import optax
import tqdm
from flax.training.train_state import TrainState

from vae_jax import datasets
from vae_jax.evaluation.digit_classifier import NO_DIGIT, DigitClassifier, classify
from vae_jax.model.likelihoods import MAX_PIXEL, to_intensities
from vae_jax.model.rng_streams import make_root_key
from vae_jax.model.vae import Params, apply

_SEED = 0
_NUM_EPOCHS = 20
_BATCH_SIZE = 100
_PEAK_LEARNING_RATE = 0.003
_MAX_ANGLE = 0.2  # radians
_MAX_STRETCH = 0.12
_MAX_SHIFT = 2.0  # pixels
_NUM_NO_DIGITS = 5  # in a batch, of each kind


def _distort(key: jax.Array, images: jax.Array) -> jax.Array:
    """Turns, stretches, slants and shifts each of `<float>[batch, 28, 28, 1]` a little."""
    height, width = images.shape[1:3]
    center = jnp.array([(height - 1) / 2, (width - 1) / 2])
    grid = jnp.stack(jnp.meshgrid(jnp.arange(height), jnp.arange(width), indexing="ij"), -1)

    def distort(key: jax.Array, image: jax.Array) -> jax.Array:
        draws = jax.random.uniform(key, (6,), minval=-1.0, maxval=1.0)
        angle, shift = draws[0] * _MAX_ANGLE, draws[1:3] * _MAX_SHIFT
        turn = jnp.array([[jnp.cos(angle), -jnp.sin(angle)], [jnp.sin(angle), jnp.cos(angle)]])
        stretch = jnp.eye(2) + _MAX_STRETCH * jnp.array([[draws[3], draws[5]], [0.0, draws[4]]])
        sources = (grid - center) @ (turn @ stretch).T + center + shift
        places = [*jnp.moveaxis(sources, -1, 0)]
        return jax.scipy.ndimage.map_coordinates(image[..., 0], places, order=1)[..., None]

    return jax.vmap(distort)(jax.random.split(key, len(images)), images)


def _no_digits(key: jax.Array, images: jax.Array) -> jax.Array:
    """Makes images `<float>[3 * n, 28, 28, 1]` without a digit: shuffled pixels, quarters, dots."""
    height, width = images.shape[1:3]
    shuffle_key, density_key, dots_key = jax.random.split(key, 3)
    pixels = images.reshape(len(images), -1)
    shuffled = jax.random.permutation(shuffle_key, pixels, axis=1, independent=True)
    exchanged = jnp.roll(images, (height // 2, width // 2), axis=(1, 2))
    density = jax.random.uniform(density_key, (len(images), 1, 1, 1))
    dots = jax.random.uniform(dots_key, images.shape) < density**2
    return jnp.concatenate([shuffled.reshape(images.shape), exchanged, dots])


def train(images: np.ndarray, labels: np.ndarray) -> Params:
    """Trains on `<uint8>[n, 28, 28, 1]` and `<int>[n]`; returns the parameters."""
    root_key, steps_per_epoch = make_root_key(_SEED), len(images) // _BATCH_SIZE
    schedule = optax.cosine_onecycle_schedule(_NUM_EPOCHS * steps_per_epoch, _PEAK_LEARNING_RATE)
    params = DigitClassifier().init(root_key, jnp.zeros((1, 28, 28, 1)))["params"]
    state = TrainState.create(apply_fn=None, params=params, tx=optax.adam(schedule))

    @jax.jit
    def step(state, key, images, labels):
        distortion_key, dropout_key, no_digits_key = jax.random.split(key, 3)
        pixels = _distort(distortion_key, to_intensities(images))
        others = _no_digits(no_digits_key, pixels[:_NUM_NO_DIGITS])
        pixels = jnp.concatenate([pixels, others])
        labels = jnp.concatenate([labels, jnp.full(len(others), NO_DIGIT)])

        def mean_loss(params: Params) -> jax.Array:
            _, logits = apply(DigitClassifier(), params, pixels, dropout_key)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        return state.apply_gradients(grads=jax.grad(mean_loss)(state.params))

    for epoch in tqdm.trange(_NUM_EPOCHS, unit="epoch"):
        order = np.random.default_rng([_SEED, epoch]).permutation(len(images))
        for rows in np.split(order[: steps_per_epoch * _BATCH_SIZE], steps_per_epoch):
            key = jax.random.fold_in(root_key, state.step + 1)
            state = step(state, key, images[rows], labels[rows].astype(np.int32))
    return state.params


def main() -> None:
    """Trains, writes the weights and prints their accuracy."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="the file to write")
    parser.add_argument("--manual_dir", help="a folder with the four MNIST files")
    options = parser.parse_args()
    dataset = datasets.load("mnist", manual_dir=options.manual_dir)
    params = train(dataset.train.images, dataset.train.labels)
    flat = flax.traverse_util.flatten_dict(params, sep="/")
    halves = {name: np.asarray(leaf, np.float16) for name, leaf in flat.items()}
    np.savez(options.output, **halves)
    labels = classify(params, dataset.test.images / MAX_PIXEL).labels
    print(f"test accuracy {(labels == dataset.test.labels).mean():.2%}")


if __name__ == "__main__":
    main()
