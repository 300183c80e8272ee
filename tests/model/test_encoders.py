"""The encoders against hand-written NumPy."""

import flax.linen as nn
import jax
import numpy as np
import pytest
import scipy.special

from vae_jax.model.encoders import DenseEncoder, LSTMEncoder
from vae_jax.model.structs import Batch

# A height that 7, the rows of an accelerator's iteration, does not divide.
IMAGES = np.random.RandomState(0).uniform(size=(3, 10, 6, 2)).astype(np.float32)
BATCH = Batch(IMAGES)


def init(encoder, batch=BATCH):
    """Parameters with random biases, which begin at zero, where an error would not show."""
    generator = np.random.RandomState(1)
    params = jax.jit(encoder.init)(jax.random.key(0), batch)["params"]
    return jax.tree.map(lambda leaf: leaf + 0.1 * generator.normal(size=leaf.shape), params)


def encode(encoder, params, batch=BATCH):
    return jax.jit(encoder.apply)({"params": params}, batch)


def unrolled_lstm(params, rows):
    """Hochreiter and Schmidhuber 1997, with forget gate (Gers et al. 2000), row by row."""

    def gate(name, row, hidden):
        return row @ params[f"i{name}"]["kernel"] + dense(params[f"h{name}"], hidden)

    hidden = cell = np.zeros((len(rows), len(params["hf"]["bias"])))
    outputs = []
    for row in rows.swapaxes(0, 1):
        input_gate, forget_gate, output_gate = (
            scipy.special.expit(gate(name, row, hidden)) for name in "ifo"
        )
        cell = forget_gate * cell + input_gate * np.tanh(gate("g", row, hidden))
        hidden = output_gate * np.tanh(cell)
        outputs.append(hidden)
    return np.stack(outputs, axis=1)


def dense(params, x):
    return x @ params["kernel"] + params["bias"]


ACTIVATIONS = {
    "relu": lambda x: np.maximum(x, 0.0),
    "swish": lambda x: x / (1.0 + np.exp(-x)),  # Ramachandran et al. 2017, equation 1, beta = 1
}


def assert_heads(posterior, params, features, activation="relu"):
    """Asserts that a posterior is what dense layers and two heads make of these features."""
    for name in sorted(name for name in params if name.startswith("Dense_")):
        features = ACTIVATIONS[activation](dense(params[name], features))
    for name in ("mean", "log_var"):
        expected = dense(params[name], features)
        np.testing.assert_allclose(getattr(posterior, name), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_lstm_layers_in_both_directions_equal_unrolled_ones(num_layers, bidirectional):
    encoder = LSTMEncoder(5, hidden_size=7, num_layers=num_layers, bidirectional=bidirectional)
    params = init(encoder)
    rows = IMAGES.reshape(3, 10, -1)
    for name in ("lstm", "lstm_1")[:num_layers]:
        outputs = [unrolled_lstm(params[name], rows)]
        if bidirectional:
            outputs.append(unrolled_lstm(params[f"{name}_backward"], rows[:, ::-1])[:, ::-1])
        rows = np.concatenate(outputs, axis=-1)
    assert_heads(encode(encoder, params), params, rows.reshape(3, -1))


@pytest.mark.slow
def test_the_lstm_reads_the_rows_of_maps():
    encoder = LSTMEncoder(5, "swish", hidden_size=7, map_channels=4, residual_blocks=1)
    batch = Batch(IMAGES[:, :9, :5])  # an odd height and width
    params, swish = init(encoder, batch), ACTIVATIONS["swish"]

    def convolve(params, x):
        return nn.Conv(4, (3, 3)).apply({"params": params}, x)

    x = np.pad(batch.images, ((0, 0), (0, 1), (0, 1), (0, 0)))
    x = np.concatenate([x[:, down::2, across::2] for down in (0, 1) for across in (0, 1)], -1)
    x, block = convolve(params["ConvTranspose_0"], x), params["ResidualBlock_0"]
    y = swish(convolve(block["ConvTranspose_0"], swish(x)))
    rows = np.asarray(swish(x + convolve(block["ConvTranspose_1"], y))).reshape(3, 5, -1)
    features = unrolled_lstm(params["lstm"], rows).reshape(3, -1)
    assert_heads(encode(encoder, params, batch), params, features)


@pytest.mark.slow
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_dense_layers_before_the_heads_equal_matrix_products(activation):
    encoder = LSTMEncoder(5, hidden_size=7, mlp_sizes=(11, 9), activation=activation)
    params = init(encoder)
    features = unrolled_lstm(params["lstm"], IMAGES.reshape(3, 10, -1)).reshape(3, -1)
    assert_heads(encode(encoder, params), params, features, activation)
    encoder = DenseEncoder(5, dense_sizes=(11, 9), activation=activation)
    params = init(encoder)
    assert_heads(encode(encoder, params), params, IMAGES.reshape(3, -1), activation)


@pytest.mark.slow
def test_means_through_relu_are_cut_off_at_zero_and_log_variances_are_not():
    plain, cut_off = (DenseEncoder(5, mean_activation=name) for name in ("none", "relu"))
    params = init(plain)
    posterior, found = encode(plain, params), encode(cut_off, params)
    assert posterior.mean.min() < 0 < posterior.mean.max()
    assert posterior.log_var.min() < 0
    np.testing.assert_array_equal(found.mean, np.maximum(posterior.mean, 0.0))
    np.testing.assert_array_equal(found.log_var, posterior.log_var)
