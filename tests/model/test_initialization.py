"""Initialization as TensorFlow 1's, against the published formulas, and at the data's mean."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from tests.support.common import settings_of
from vae_jax.model.initialization import tensorflow_params
from vae_jax.model.rng_streams import make_root_key
from vae_jax.training import steps


@pytest.fixture
def small_config(small_config):
    """With two layers of LSTMs in both directions, and two transposed convolutions."""
    small_config.encoder.kind = "lstm"
    small_config.encoder.num_layers = 2
    small_config.encoder.bidirectional = True
    small_config.decoder.filters = (4, 4)
    small_config.decoder.strides = (2, 2)
    small_config.initialization = "tensorflow"
    return small_config


def check_uniform(kernels, limit):
    """All of these kernels' values within the limits, and spread as a uniform distribution's."""
    values = np.abs(np.concatenate([np.ravel(kernel) for kernel in kernels]))
    assert values.max() <= limit
    assert values.max() > 0.95 * limit
    assert values.mean() == pytest.approx(limit / 2, rel=0.1)


def check_cell(cell, inputs, hidden):
    """One kernel from input and state to four gates, and open forget gates."""
    kernels = [cell[source + gate]["kernel"] for source in "ih" for gate in "ifgo"]
    assert sum(kernel.size for kernel in kernels) == (inputs + hidden) * 4 * hidden
    check_uniform(kernels, np.sqrt(6 / (inputs + hidden + 4 * hidden)))
    for gate in "ifgo":
        np.testing.assert_array_equal(cell[f"h{gate}"]["bias"], float(gate == "f"))


@pytest.mark.slow
def test_kernels_are_glorot_uniform_and_biases_zero(small_config):
    params, other = (steps.initial_state(settings_of(small_config), seed).params for seed in (0, 1))
    encoder, decoder = params["encoder"], params["decoder"]
    # 16 hidden units in each direction after each of 28 rows, 8 latent dimensions.
    check_uniform([encoder["mean"]["kernel"]], np.sqrt(6 / (2 * 448 + 8)))
    # Transposed convolutions count their window.
    kernel = decoder["ConvTranspose_1"]["kernel"]
    assert kernel.shape == (3, 3, 4, 4)
    check_uniform([kernel], np.sqrt(6 / (9 * 4 + 9 * 4)))
    for name, inputs in {
        "lstm": 28,
        "lstm_backward": 28,
        "lstm_1": 32,
        "lstm_1_backward": 32,
    }.items():
        check_cell(encoder[name], inputs, 16)
    for layer in (encoder["mean"], encoder["log_var"], *decoder.values()):
        np.testing.assert_array_equal(layer["bias"], 0.0)
    # Each kernel and each seed has its own values.
    kernel = encoder["lstm"]["ii"]["kernel"]
    assert not np.allclose(kernel, encoder["lstm"]["if"]["kernel"])
    assert not np.allclose(kernel, other["encoder"]["lstm"]["ii"]["kernel"])


@pytest.mark.slow
@pytest.mark.parametrize("head", ["dense", "conv"])
def test_the_decoder_can_begin_at_the_mean_of_the_data(small_config, head):
    small_config.encoder.kind = "dense"
    small_config.decoder.head = head
    small_config.train.num_replicas = 2
    mean = np.random.default_rng(0).uniform(-0.1, 1.1, (28, 28, 1)).clip(0.0, 1.0)
    mean = mean.astype(np.float32)
    settings = settings_of(small_config)
    plain = steps.initial_state(settings, seed=0).params
    begun = steps.initial_state(settings, 0, mean).params
    bias = begun["decoder"]["logits"]["bias"]
    expected = mean.ravel() if head == "dense" else [mean.mean()]
    for replica_bias in bias:
        np.testing.assert_allclose(
            scipy.special.expit(replica_bias), np.clip(expected, 0.001, 0.999), rtol=1e-4
        )
    # Nothing else differs.
    plain["decoder"]["logits"]["bias"] = bias
    jax.tree.map(np.testing.assert_array_equal, begun, plain)


def test_the_root_key_is_of_the_same_kind_in_every_environment():
    expected = jax.random.key_data(make_root_key(3))
    with jax.default_prng_impl("rbg"):
        assert jax.random.key_data(make_root_key(3)).tolist() == expected.tolist()


class OtherEncoder(nn.Module):
    """An LSTM cell of another name, and layers whose names are those of parts of an LSTM."""

    @nn.compact
    def __call__(self, rows):
        features = nn.Dense(24, name="lstm_features")(rows)
        zeros = jnp.zeros((len(rows), 32))
        _, outputs = nn.OptimizedLSTMCell(32, name="memory")((zeros, zeros), features)
        gates = nn.Dense(20, name="hf")(nn.Dense(20, name="ii")(outputs))
        return nn.GRUCell(16, name="lstm")(jnp.zeros((len(rows), 16)), gates)[1]


@pytest.mark.slow
def test_an_lstm_cell_is_known_by_its_gates_and_not_by_its_name():
    shapes = jax.jit(OtherEncoder().init)(jax.random.key(0), jnp.zeros((2, 28)))["params"]
    params = jax.jit(tensorflow_params)({"encoder": shapes}, jax.random.key(1))["encoder"]
    check_cell(params["memory"], 24, 32)
    for layer, fans in (
        (params["lstm_features"], 28 + 24),
        (params["ii"], 32 + 20),
        (params["hf"], 20 + 20),
        (params["lstm"]["hn"], 16 + 16),
    ):
        check_uniform([layer["kernel"]], np.sqrt(6 / fans))
        np.testing.assert_array_equal(layer["bias"], 0.0)
