"""Likelihoods p(x | z) of pixels: the meaning of the decoder's raw outputs.

Images are intensities in [0, 1], `<float>[batch, height, width, channels]`. A likelihood with one
parameter for each intensity takes outputs of that shape; one with more has them one after another
on the last axis, first those of all channels for the first parameter.
"""

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from vae_jax.model.distributions import sum_per_example

MAX_PIXEL = 255.0
# A pixel that is the same in nearly all images gets no output beyond these means.
_MEAN_LIMITS = (0.001, 0.999)
# Log-scales, of intensities. At the minimum a level has nearly all of the mass.
_INITIAL_LOG_SCALE = math.log(0.1)
_MIN_LOG_SCALE, _MAX_LOG_SCALE = -7.0, 7.0
# Below this logit series are exact to float32, where quotients of small numbers are not.
_SMALL_LOGIT = 0.05


def count_gray(images: np.ndarray) -> int:
    """Counts the pixels `<uint8>[n, ...]` that are neither black nor white."""
    blocks = (images[start : start + 1_000] for start in range(0, len(images), 1_000))
    return sum(int(np.count_nonzero((each > 0) & (each < MAX_PIXEL))) for each in blocks)


def to_bits_per_dimension(nats: float, num_dimensions: int) -> float:
    """Converts nats per image to bits for each channel of each pixel."""
    return nats / (num_dimensions * math.log(2.0))


class Likelihood:
    """The attributes and methods of every likelihood."""

    num_outputs: ClassVar[int] = 1  # of the decoder, for each channel of a pixel
    # Whether one more parameter for each channel, the same for all pixels and images, is learned
    # beside the decoder's and follows its outputs.
    learns_scale: ClassVar[bool] = False
    is_discrete: ClassVar[bool] = False  # a probability of one of 256 levels, not a density
    is_binary: ClassVar[bool] = False  # of black and white pixels only

    def log_prob(self, outputs: jax.Array, images: jax.Array) -> jax.Array:
        """Computes log p(x | z) of images: `<float>[batch]`, nats per image.

        Takes outputs `<float>[batch, ..., parameters * channels]` and intensities in [0, 1],
        `<float>[batch, ..., channels]`; raises ValueError if their shapes do not fit together.
        """
        raise NotImplementedError

    def mean(self, outputs: jax.Array) -> jax.Array:
        """Computes the mean of each intensity, in [0, 1]: `<float>[batch, ..., channels]`."""
        raise NotImplementedError

    def sample(self, key: jax.Array, outputs: jax.Array) -> jax.Array:
        """Draws intensities, `<float>[batch, ..., channels]`."""
        raise NotImplementedError

    def outputs_with_mean(self, mean: jax.Array) -> jax.Array:
        """Computes the decoder's outputs with a given mean, which is clipped off 0 and 1."""
        return jax.scipy.special.logit(jnp.clip(mean, *_MEAN_LIMITS))

    def _check_shapes(self, outputs: jax.Array, images: jax.Array) -> None:
        """Raises ValueError unless the outputs match the images: other shapes may broadcast."""
        num_parameters = self.num_outputs + self.learns_scale
        expected = (*images.shape[:-1], num_parameters * images.shape[-1])
        if outputs.shape != expected:
            raise ValueError(f"outputs have shape {outputs.shape}, must have {expected}")


@dataclasses.dataclass(frozen=True)
class Bernoulli(Likelihood):
    """Independent binary pixels; the decoder's outputs are their logits.

    Gray pixels in (0, 1) give the negative binary cross-entropy, which is not a likelihood.
    """

    is_binary: ClassVar = True

    def log_prob(self, outputs: jax.Array, images: jax.Array) -> jax.Array:
        """Computes log p(x | z) of images.

        log p(x | l) = sum_i x_i log sigmoid(l_i) + (1 - x_i) log sigmoid(-l_i)

        Kingma and Welling 2014 (arXiv:1312.6114), appendix C.1, equation 11, written in logits:
        `log_sigmoid` and its gradient stay finite where log(sigmoid) would underflow.
        """
        self._check_shapes(outputs, images)
        log_p_one = jax.nn.log_sigmoid(outputs)
        log_p_zero = jax.nn.log_sigmoid(-outputs)
        return sum_per_example(images * log_p_one + (1.0 - images) * log_p_zero)

    def mean(self, outputs: jax.Array) -> jax.Array:
        """Computes the mean of each intensity, in [0, 1], of the outputs' shape."""
        return jax.nn.sigmoid(outputs)

    def sample(self, key: jax.Array, outputs: jax.Array) -> jax.Array:
        """Draws intensities, 0 or 1, of the outputs' shape and type."""
        return jax.random.bernoulli(key, self.mean(outputs)).astype(outputs.dtype)


@dataclasses.dataclass(frozen=True)
class ContinuousBernoulli(Likelihood):
    """Independent intensities in [0, 1]: the cross-entropy, normalized to a density.

    Loaiza-Ganem and Cunningham 2019 (arXiv:1907.06845). The outputs are logits l of their
    parameter: p(x | l) = exp(l x) l / (exp(l) - 1).
    """

    def log_prob(self, outputs: jax.Array, images: jax.Array) -> jax.Array:
        """Computes the log-density of images: as `Bernoulli`, plus the log normalizing constant.

        log C(l) = log (l / tanh(l / 2)), equation 6 of the paper written in logits; a series near
        0, where it is log 2 + l^2 / 12 - 7 l^4 / 1440.
        """
        is_small, large = _split_at_small(outputs)
        squared = jnp.square(jnp.where(is_small, outputs, 0.0))
        near_zero = math.log(2.0) + squared / 12.0 - 7.0 / 1440.0 * jnp.square(squared)
        elsewhere = jnp.log(jnp.abs(large)) - jnp.log(jnp.tanh(jnp.abs(large) / 2.0))
        log_constant = jnp.where(is_small, near_zero, elsewhere)
        return Bernoulli().log_prob(outputs, images) + sum_per_example(log_constant)

    def mean(self, outputs: jax.Array) -> jax.Array:
        """Computes the mean of each intensity: 1 / (1 - exp(-l)) - 1 / l, 1/2 + l / 12 near 0."""
        is_small, large = _split_at_small(outputs)
        # For |l|, then mirrored: exp cannot overflow.
        size = jnp.abs(large)
        above = -1.0 / jnp.expm1(-size) - 1.0 / size
        elsewhere = jnp.where(large > 0.0, above, 1.0 - above)
        return jnp.where(is_small, 0.5 + outputs / 12.0 - outputs**3 / 720.0, elsewhere)

    def sample(self, key: jax.Array, outputs: jax.Array) -> jax.Array:
        """Draws intensities by the inverse of the distribution function."""
        uniform = jax.random.uniform(key, outputs.shape, outputs.dtype)
        is_small, large = _split_at_small(outputs)
        # For -|l|, then mirrored: exp cannot overflow.
        size = -jnp.abs(large)
        below = jnp.log1p(uniform * jnp.expm1(size)) / size
        return jnp.where(is_small, uniform, jnp.where(large > 0.0, 1.0 - below, below))

    def outputs_with_mean(self, mean: jax.Array) -> jax.Array:
        """Computes the logits with a given mean, which is clipped off 0 and 1, by bisection."""
        target = jnp.clip(mean, *_MEAN_LIMITS)
        # The mean at -l is below 1 / l.
        bound = jnp.full_like(target, 1.0 / _MEAN_LIMITS[0])

        def halve(_: int, bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            low, high = bounds
            middle = (low + high) / 2.0
            is_above = self.mean(middle) > target
            return jnp.where(is_above, low, middle), jnp.where(is_above, middle, high)

        low, high = jax.lax.fori_loop(0, 40, halve, (-bound, bound))
        return (low + high) / 2.0


def _split_at_small(logits: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Finds the small logits, and replaces them by 1: gradients there stay finite."""
    is_small = jnp.abs(logits) < _SMALL_LOGIT
    return is_small, jnp.where(is_small, 1.0, logits)


def _location_and_log_scale(outputs: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Computes both from logits and raw log-scales; scales begin at 0.1 and are bounded."""
    logits, raw = jnp.split(outputs, 2, axis=-1)
    location = jax.nn.sigmoid(logits)
    # Soft below: the gradient of a pixel that is always the same does not vanish for good.
    soft = _MIN_LOG_SCALE + jax.nn.softplus(raw + _INITIAL_LOG_SCALE - _MIN_LOG_SCALE)
    return location, jnp.minimum(soft, _MAX_LOG_SCALE)


@dataclasses.dataclass(frozen=True)
class Gaussian(Likelihood):
    """Independent real intensities around means in [0, 1], with one learned scale a channel.

    The sigma-VAE of Rybkin et al. 2021 (arXiv:2006.13202) with a shared scale. A density: its
    logarithm may be positive, and cannot be compared with that of pixels of 256 levels.
    """

    learns_scale: ClassVar = True

    def log_prob(self, outputs: jax.Array, images: jax.Array) -> jax.Array:
        """Computes sum_i -1/2 ((x_i - m_i) / s)^2 - log s - 1/2 log 2 pi."""
        self._check_shapes(outputs, images)
        mean, log_scale = _location_and_log_scale(outputs)
        residuals = (images - mean) * jnp.exp(-log_scale)
        return -sum_per_example(
            0.5 * jnp.square(residuals) + log_scale + 0.5 * math.log(2.0 * math.pi)
        )

    def mean(self, outputs: jax.Array) -> jax.Array:
        """Computes the mean of each intensity: `<float>[batch, ..., channels]`, in [0, 1]."""
        return _location_and_log_scale(outputs)[0]

    def sample(self, key: jax.Array, outputs: jax.Array) -> jax.Array:
        """Draws intensities `<float>[batch, ..., channels]`, some of them beyond [0, 1]."""
        mean, log_scale = _location_and_log_scale(outputs)
        return mean + jnp.exp(log_scale) * jax.random.normal(key, mean.shape, mean.dtype)


@dataclasses.dataclass(frozen=True)
class DiscretizedLogistic(Likelihood):
    """Independent intensities of 256 levels: a logistic distribution, rounded and clipped.

    Kingma et al. 2016 (arXiv:1606.04934), appendix B; the lowest and the highest level have the
    mass beyond them, as in Salimans et al. 2017 (arXiv:1701.05517), equation 2. Location and scale
    come from the decoder for each channel of each pixel.
    """

    num_outputs: ClassVar = 2
    is_discrete: ClassVar = True

    def log_prob(self, outputs: jax.Array, images: jax.Array) -> jax.Array:
        """Computes the log-probability of images, whose intensities are multiples of 1/255.

        A level between the edges a < b has the mass F(b) - F(a) of the logistic distribution
        function; with sigmoids, sigmoid(b) sigmoid(-a) (1 - exp(a - b)), whose logarithm stays
        finite where the difference would round to 0.
        """
        self._check_shapes(outputs, images)
        location, log_scale = _location_and_log_scale(outputs)
        inverse_scale = jnp.exp(-log_scale)
        upper = (images + 0.5 / MAX_PIXEL - location) * inverse_scale
        lower = (images - 0.5 / MAX_PIXEL - location) * inverse_scale
        is_lowest, is_highest = images < 0.5 / MAX_PIXEL, images > 1.0 - 0.5 / MAX_PIXEL
        log_below = jnp.where(is_highest, 0.0, jax.nn.log_sigmoid(upper))
        log_above = jnp.where(is_lowest, 0.0, jax.nn.log_sigmoid(-lower))
        log_width = jnp.log(-jnp.expm1(-inverse_scale / MAX_PIXEL))
        log_width = jnp.where(is_lowest | is_highest, 0.0, log_width)
        return sum_per_example(log_below + log_above + log_width)

    def mean(self, outputs: jax.Array) -> jax.Array:
        """Computes the mean of each intensity, `<float>[batch, ..., channels]`, in [0, 1].

        The clipped logistic's, s (softplus(m / s) - softplus((m - 1) / s)): rounding to levels
        changes it by less than half a level.
        """
        location, log_scale = _location_and_log_scale(outputs)
        scale = jnp.exp(log_scale)
        upper, lower = location / scale, (location - 1.0) / scale
        return scale * (jax.nn.softplus(upper) - jax.nn.softplus(lower))

    def sample(self, key: jax.Array, outputs: jax.Array) -> jax.Array:
        """Draws intensities, multiples of 1/255, `<float>[batch, ..., channels]`."""
        location, log_scale = _location_and_log_scale(outputs)
        noise = jax.random.logistic(key, location.shape, location.dtype)
        levels = jnp.round(MAX_PIXEL * (location + jnp.exp(log_scale) * noise))
        return jnp.clip(levels, 0.0, MAX_PIXEL) / MAX_PIXEL

    def outputs_with_mean(self, mean: jax.Array) -> jax.Array:
        """Computes outputs with given locations, clipped off 0 and 1, and the first scale."""
        logits = super().outputs_with_mean(mean)
        return jnp.concatenate([logits, jnp.zeros_like(logits)], axis=-1)


LIKELIHOODS: dict[str, type[Likelihood]] = {
    "bernoulli": Bernoulli,
    "continuous_bernoulli": ContinuousBernoulli,
    "gaussian": Gaussian,
    "discretized_logistic": DiscretizedLogistic,
}
