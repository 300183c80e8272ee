"""A batch of images, and the dictionaries in which numbers travel."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from vae_jax.model import batch_axis
from vae_jax.model.likelihoods import MAX_PIXEL

# From a name to one value for each image, `<float>[batch]`; "loss" is among the names.
Terms = dict[str, jax.Array]
# From a name to a scalar of a training step, `<float>[]`.
StepNumbers = dict[str, jax.Array]


@struct.dataclass
class Batch:
    """Images and their labels; NumPy arrays before they are sent to a device."""

    # `[batch, height, width, channels]`, pixels as `<uint8>` from 0 to 255, or intensities as
    # `<float>` from 0 to 1; None for images that are yet to be decoded.
    images: Any = None
    labels: Any = None  # `<int32>[batch]`, indices of classes from 0; None if the data have none
    # How many times `repeat` has put the images one after another.
    num_copies: int = struct.field(pytree_node=False, default=1, kw_only=True)

    def __len__(self) -> int:
        return len(jax.tree.leaves(self)[0])

    def __getitem__(self, rows: Any) -> "Batch":
        return jax.tree.map(lambda array: array[rows], self)

    def without_images(self) -> "Batch":
        """Returns the labels alone: the part that decoders and priors read."""
        return dataclasses.replace(self, images=None)

    def to_intensities(self) -> "Batch":
        """Returns the batch with intensities in [0, 1]; TypeError if pixels are not `uint8`."""
        if self.images.dtype == jnp.float32:
            return self
        if self.images.dtype != jnp.uint8:
            raise TypeError(f"pixels are {self.images.dtype}, must be uint8, from 0 to 255")
        return dataclasses.replace(self, images=self.images.astype(jnp.float32) / MAX_PIXEL)

    def binarize(self, key: jax.Array) -> "Batch":
        """Draws each pixel, 1 with the probability of its intensity."""
        uniform = batch_axis.draw(jax.random.uniform, key, self.images.shape)
        return dataclasses.replace(self, images=(uniform < self.images).astype(jnp.float32))

    def one_hot(self, num_classes: int) -> jax.Array:
        """Returns the labels as `<float32>[batch, num_classes]`; ValueError if there are none."""
        if self.labels is None:
            raise ValueError("the model is conditional: labels are missing")
        return jax.nn.one_hot(self.labels, num_classes)

    def repeat(self, num_times: int) -> "Batch":
        """Returns `num_times` copies of the batch, one after another."""

        def repeat(array: jax.Array) -> jax.Array:
            copies = jnp.broadcast_to(array, (num_times, *array.shape))
            return copies.reshape(-1, *array.shape[1:])

        return dataclasses.replace(jax.tree.map(repeat, self), num_copies=num_times)
