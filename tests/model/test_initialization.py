"""Initialization as TensorFlow 1's, against the published formulas."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from tests.support.common import settings_of
from vae_jax import datasets
from vae_jax.model.initialization import tensorflow_params
from vae_jax.model.rng_streams import make_root_key
from vae_jax.training import steps


@pytest.fixture
def small_config(small_config):
    """With an LSTM, and two transposed convolutions."""
    small_config.encoder.kind = "lstm"
    small_config.decoder.filters = (4, 4)
    small_config.decoder.strides = (2, 2)
    return small_config


def initial_params(config, seed=0):
    return steps.initial_state(settings_of(config), seed).params


@pytest.fixture
def params(small_config):
    small_config.initialization = "tensorflow"
    return initial_params(small_config)


def check_uniform(kernel, limit):
    """All of a kernel's values within the limits, and spread as a uniform distribution's."""
    values = np.abs(np.concatenate([np.ravel(part) for part in kernel]))
    assert values.max() <= limit
    assert values.max() > 0.95 * limit
    assert values.mean() == pytest.approx(limit / 2, rel=0.1)


def test_dense_kernels_are_glorot_uniform(params):
    # 16 hidden units after each of 28 rows, 8 latent dimensions.
    kernel = params["encoder"]["mean"]["kernel"]
    assert kernel.shape == (448, 8)
    check_uniform([kernel], np.sqrt(6 / (448 + 8)))


def test_transposed_convolutions_count_their_window(params):
    kernel = params["decoder"]["ConvTranspose_1"]["kernel"]
    assert kernel.shape == (3, 3, 4, 4)
    check_uniform([kernel], np.sqrt(6 / (9 * 4 + 9 * 4)))


def test_the_lstm_is_one_kernel_of_input_and_state_to_four_gates(params):
    cell = params["encoder"]["lstm"]
    kernels = [cell[source + gate]["kernel"] for source in "ih" for gate in "ifgo"]
    assert sum(kernel.size for kernel in kernels) == (28 + 16) * 4 * 16
    check_uniform(kernels, np.sqrt(6 / (28 + 16 + 4 * 16)))


def test_biases_are_zero_but_the_forget_gates(params):
    biases = {
        jax.tree_util.keystr(path): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
        if path[-1].key == "bias"
    }
    forget = biases.pop("['encoder']['lstm']['hf']['bias']")
    np.testing.assert_array_equal(forget, 1.0)
    for name, bias in biases.items():
        np.testing.assert_array_equal(bias, 0.0, err_msg=name)


def test_no_two_kernels_and_no_two_seeds_are_alike(small_config, params):
    small_config.initialization = "tensorflow"
    other = initial_params(small_config, seed=1)
    cell = params["encoder"]["lstm"]
    assert not np.allclose(cell["ii"]["kernel"], cell["if"]["kernel"])
    assert not np.allclose(cell["ii"]["kernel"], other["encoder"]["lstm"]["ii"]["kernel"])


@pytest.mark.slow
@pytest.mark.parametrize("head", ["dense", "conv"])
def test_the_decoder_can_begin_at_the_mean_of_the_data(small_config, head):
    small_config.encoder.kind = "dense"
    small_config.decoder.head = head
    small_config.train.num_replicas = 2
    images = datasets.load("mnist_5k").train.images
    mean = images.mean(0) / 255.0
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


@pytest.mark.slow
def test_every_lstm_of_an_encoder_is_a_kernel_of_its_own(small_config):
    small_config.initialization = "tensorflow"
    small_config.encoder.num_layers = 2
    small_config.encoder.bidirectional = True
    encoder = initial_params(small_config)["encoder"]
    for name, inputs in {
        "lstm": 28,
        "lstm_backward": 28,
        "lstm_1": 32,
        "lstm_1_backward": 32,
    }.items():
        kernels = [encoder[name][source + gate]["kernel"] for source in "ih" for gate in "ifgo"]
        check_uniform(kernels, np.sqrt(6 / (inputs + 16 + 4 * 16)))


def test_the_root_key_is_of_the_same_kind_whatever_the_environment_says():
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


def test_an_lstm_cell_is_known_by_its_gates_and_not_by_its_name():
    shapes = OtherEncoder().init(jax.random.key(0), jnp.zeros((2, 28)))["params"]
    params = tensorflow_params({"encoder": shapes}, jax.random.key(1))["encoder"]
    cell = params["memory"]
    kernels = [cell[source + gate]["kernel"] for source in "ih" for gate in "ifgo"]
    check_uniform(kernels, np.sqrt(6 / (24 + 32 + 4 * 32)))
    for gate in "ifgo":
        np.testing.assert_array_equal(cell[f"h{gate}"]["bias"], float(gate == "f"))
    # What is called an LSTM, or as a gate of one, and is none, has kernels and biases of its own.
    check_uniform([params["lstm_features"]["kernel"]], np.sqrt(6 / (28 + 24)))
    check_uniform([params["ii"]["kernel"]], np.sqrt(6 / (32 + 20)))
    check_uniform([params["hf"]["kernel"]], np.sqrt(6 / (20 + 20)))
    np.testing.assert_array_equal(params["hf"]["bias"], 0.0)
    check_uniform([params["lstm"]["hn"]["kernel"]], np.sqrt(6 / (16 + 16)))
    np.testing.assert_array_equal(params["lstm"]["hn"]["bias"], 0.0)
