"""Trains the digit classifier and writes its weights.

  python -m vae_jax.evaluation.digit_classifier.train --output=weights.npz

Add `--manual_dir=FOLDER` where the four MNIST files already lie in a folder.
"""

import argparse
import functools
import hashlib
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from tqdm import tqdm

from vae_jax import datasets
from vae_jax.evaluation.digit_classifier import weights
from vae_jax.evaluation.digit_classifier.model import NO_DIGIT, DigitClassifier, classify
from vae_jax.model.likelihoods import MAX_PIXEL, to_intensities
from vae_jax.model.rng_streams import make_root_key
from vae_jax.model.vae import Params, apply
from vae_jax.runtime import interrupts
from vae_jax.runtime.errors import UserError
from vae_jax.runtime.files import errors_that_name, local_path, write_atomically
from vae_jax.runtime.system_errors import system_errors_as_user_errors

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
    """Makes images that show no digit, `<float>[3 * n, 28, 28, 1]`, of `<float>[n, 28, 28, 1]`.

    Their pixels shuffled, their quarters exchanged, and dots of a random density, none to many.
    """
    height, width = images.shape[1:3]
    shuffle_key, density_key, dots_key = jax.random.split(key, 3)
    pixels = images.reshape(len(images), -1)
    shuffled = jax.random.permutation(shuffle_key, pixels, axis=1, independent=True)
    exchanged = jnp.roll(images, (height // 2, width // 2), axis=(1, 2))
    density = jax.random.uniform(density_key, (len(images), 1, 1, 1))
    dots = jax.random.uniform(dots_key, images.shape) < density**2
    return jnp.concatenate([shuffled.reshape(images.shape), exchanged, dots])


@functools.partial(jax.jit, static_argnames="optimizer", donate_argnames=("params", "opt_state"))
def _train_step(
    optimizer: optax.GradientTransformation,
    params: Params,
    opt_state: optax.OptState,
    key: jax.Array,
    images: jax.Array,
    labels: jax.Array,
) -> tuple[Params, optax.OptState, jax.Array]:
    """Updates once; returns the parameters, the optimizer's state and the mean loss."""
    distortion_key, dropout_key, no_digits_key = jax.random.split(key, 3)
    pixels = _distort(distortion_key, to_intensities(images))
    others = _no_digits(no_digits_key, pixels[:_NUM_NO_DIGITS])
    pixels = jnp.concatenate([pixels, others])
    labels = jnp.concatenate([labels, jnp.full(len(others), NO_DIGIT)])

    def mean_loss(params: Params) -> jax.Array:
        _, logits = apply(DigitClassifier(), params, pixels, dropout_key)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    loss, gradients = jax.value_and_grad(mean_loss)(params)
    updates, opt_state = optimizer.update(gradients, opt_state, params)
    return optax.apply_updates(params, updates), opt_state, loss


def train(train_split: datasets.Split) -> Params:
    """Trains on a split; returns the parameters. The seed is fixed."""
    root_key = make_root_key(_SEED)
    steps_per_epoch = len(train_split) // _BATCH_SIZE
    num_steps = _NUM_EPOCHS * steps_per_epoch
    schedule = optax.cosine_onecycle_schedule(num_steps, _PEAK_LEARNING_RATE)
    optimizer = optax.adam(schedule)
    labels = train_split.labels
    assert labels is not None  # MNIST has them
    image = jnp.zeros((1, *train_split.images.shape[1:]))
    params: Params = dict(DigitClassifier().init(root_key, image)["params"])
    opt_state = optimizer.init(params)
    with tqdm(total=num_steps * _BATCH_SIZE, unit=" images", unit_scale=True) as bar:
        for epoch in range(_NUM_EPOCHS):
            order = np.random.default_rng([_SEED, epoch]).permutation(len(train_split))
            for step in range(steps_per_epoch):
                rows = order[step * _BATCH_SIZE : (step + 1) * _BATCH_SIZE]
                key = jax.random.fold_in(root_key, epoch * steps_per_epoch + step + 1)
                params, opt_state, loss = _train_step(
                    optimizer,
                    params,
                    opt_state,
                    key,
                    train_split.images[rows],
                    labels[rows].astype(np.int32),
                )
                bar.update(_BATCH_SIZE)
            bar.set_postfix_str(f"epoch {epoch + 1}/{_NUM_EPOCHS}, loss {float(loss):.4f}")
    return params


def accuracy(params: Params, split: datasets.Split) -> float:
    """Computes the fraction of a split's images that the classifier gets right."""
    predictions = classify(params, split.images.astype(np.float32) / MAX_PIXEL)
    return float((predictions.labels == split.labels).mean())


def _check_output(path: Path) -> None:
    """Finds out before the training whether its result can be written.

    Raises:
      UserError: the path is a folder's.
      OSError: there is no such folder, or it cannot be written to.
    """
    if path.is_dir():
        raise UserError(f"--output={path}: is a folder; give a file")
    with errors_that_name(path), tempfile.TemporaryFile(dir=path.parent):
        pass


def _train_and_write(output: Path, data_dir: str | None, manual_dir: str | None) -> None:
    """Trains, writes the weights and says how good they are."""
    _check_output(output)
    dataset = datasets.load("mnist", data_dir, manual_dir)
    content = weights.to_bytes(train(dataset.train))
    write_atomically(output, content)
    rounded = weights.from_bytes(content)
    for name in ("validation", "test"):
        print(f"{name} accuracy {accuracy(rounded, getattr(dataset, name)):.2%}")
    print(f"{output}: {len(content)} bytes, SHA-256 {hashlib.sha256(content).hexdigest()}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains with the command line's arguments; a mistake is one line."""
    parser = argparse.ArgumentParser(description="Trains the digit classifier.")
    parser.add_argument("--output", required=True, help="the file to write")
    parser.add_argument("--data_dir", help="prepared data")
    parser.add_argument("--manual_dir", help="where the four MNIST files already lie")
    options = parser.parse_args(arguments)
    try:
        with system_errors_as_user_errors():
            output = local_path("--output", options.output)
            _train_and_write(output, options.data_dir, options.manual_dir)
    except UserError as error:
        # The data set's advice is for the command line of `main.py`.
        sys.exit(f"error: {error}".replace("--config.data.", "--"))
    except KeyboardInterrupt:
        print("ended by SIGINT; no weights are written", file=sys.stderr)
        sys.exit(interrupts.status(signal.SIGINT))


if __name__ == "__main__":
    main()
