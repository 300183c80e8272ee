"""The encoders against hand-written NumPy."""

import flax.linen as nn
import jax
import numpy as np
import pytest
import scipy.special

from vae_jax.model import encoders
from vae_jax.model.encoders import DenseEncoder, LSTMEncoder
from vae_jax.model.structs import Batch

IMAGES = np.random.RandomState(0).uniform(size=(3, 28, 28, 1)).astype(np.float32)
BATCH = Batch(IMAGES)


def unrolled_lstm(params, images, hidden_size):
    """Hochreiter and Schmidhuber 1997, with forget gate (Gers et al. 2000), row by row."""

    def gate(name, row, hidden):
        return row @ params[f"i{name}"]["kernel"] + (
            hidden @ params[f"h{name}"]["kernel"] + params[f"h{name}"]["bias"]
        )

    hidden = cell = np.zeros((len(images), hidden_size))
    outputs = []
    for row in images.reshape(len(images), 28, -1).swapaxes(0, 1):
        input_gate, forget_gate, output_gate = (
            scipy.special.expit(gate(name, row, hidden)) for name in "ifo"
        )
        cell = forget_gate * cell + input_gate * np.tanh(gate("g", row, hidden))
        hidden = output_gate * np.tanh(cell)
        outputs.append(hidden)
    return np.stack(outputs, axis=1).reshape(len(images), -1)


def dense(params, x):
    return x @ params["kernel"] + params["bias"]


def with_random_biases(params):
    """Biases start at zero, where an error in their use would not show."""
    generator = np.random.RandomState(1)
    return jax.tree.map(lambda leaf: leaf + 0.1 * generator.normal(size=leaf.shape), params)


def test_lstm_encoder_equals_an_unrolled_lstm():
    encoder = LSTMEncoder(latent_size=5, hidden_size=7)
    params = with_random_biases(jax.jit(encoder.init)(jax.random.key(0), BATCH)["params"])
    posterior = jax.jit(encoder.apply)({"params": params}, BATCH)
    features = unrolled_lstm(params["lstm"], IMAGES, 7)
    assert features.shape == (3, 28 * 7)
    np.testing.assert_allclose(
        posterior.mean, dense(params["mean"], features), rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(
        posterior.log_var, dense(params["log_var"], features), rtol=1e-4, atol=1e-5
    )


def test_lstm_encoder_reads_rows_from_the_top():
    # The first 7 features are the output after the top row: other rows cannot reach them.
    encoder = LSTMEncoder(latent_size=5, hidden_size=7)
    params = jax.jit(encoder.init)(jax.random.key(0), BATCH)["params"]
    only_first = jax.tree.map(np.array, params)
    only_first["mean"]["kernel"][7:] = 0.0
    changed = IMAGES.copy()
    changed[:, 1:] = 0.5
    first, second = (
        jax.jit(encoder.apply)({"params": only_first}, Batch(images)).mean
        for images in (IMAGES, changed)
    )
    np.testing.assert_allclose(first, second, rtol=1e-6)
    changed[:, 0] = 0.5
    assert np.all(first != jax.jit(encoder.apply)({"params": only_first}, Batch(changed)).mean)


def lstm_of_ten_rows():
    """An encoder of two LSTMs, its parameters, and images of a height that 7 does not divide."""
    batch = Batch(IMAGES[:, :10])
    encoder = LSTMEncoder(latent_size=5, hidden_size=7, bidirectional=True)
    return encoder, jax.jit(encoder.init)(jax.random.key(0), batch), batch


def test_how_many_rows_an_accelerator_takes_at_a_time_changes_nothing(monkeypatch):
    encoder, params, batch = lstm_of_ten_rows()

    @jax.grad
    def gradient(params):
        return sum((output**2).sum() for output in jax.tree.leaves(encoder.apply(params, batch)))

    one_row = jax.jit(lambda params: gradient(params))(params)
    monkeypatch.setattr(encoders, "_ROWS_ON_CPU", encoders._ROWS_ON_ACCELERATOR)
    several_rows = jax.jit(lambda params: gradient(params))(params)
    for expected, found in zip(*map(jax.tree.leaves, (one_row, several_rows)), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_the_loop_is_chosen_for_the_platform_that_the_program_is_compiled_for():
    encoder, params, batch = lstm_of_ten_rows()
    traced = jax.jit(encoder.apply).trace(params, batch)

    def count(platform, name):
        return traced.lower(lowering_platforms=(platform,)).as_text().count(name)

    # Of ten rows seven are in the loop's body and three after it, in each of two directions.
    assert count("cuda", "call @closed_call") == count("tpu", "call @closed_call") == 2 * 10
    assert count("cpu", "call @closed_call") <= 2
    assert count("cuda", "stablehlo.while") == count("cpu", "stablehlo.while") == 2


@pytest.mark.parametrize("reverse", [False, True])
def test_the_loop_gives_what_a_plain_scan_gives(reverse):
    class Layer(nn.Module):
        @nn.compact
        def __call__(self, rows):
            return encoders._lstm(7, rows, "lstm", reverse)

    rows = IMAGES.reshape(3, 28, 28)
    variables = jax.jit(Layer().init)(jax.random.key(0), rows)
    scan = nn.scan(
        nn.OptimizedLSTMCell,
        variable_broadcast="params",
        split_rngs={"params": False},
        in_axes=1,
        out_axes=1,
        reverse=reverse,
    )
    zeros = np.zeros((3, 7), np.float32)
    plain = {"params": variables["params"]["lstm"]}
    _, expected = jax.jit(scan(7).apply)(plain, (zeros, zeros), rows)
    np.testing.assert_array_equal(jax.jit(Layer().apply)(variables, rows), expected)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_layers_and_directions_equal_unrolled_lstms(bidirectional):
    encoder = LSTMEncoder(latent_size=5, hidden_size=7, num_layers=2, bidirectional=bidirectional)
    params = with_random_biases(jax.jit(encoder.init)(jax.random.key(0), BATCH)["params"])
    mean = jax.jit(encoder.apply)({"params": params}, BATCH).mean
    rows = IMAGES
    for name in ("lstm", "lstm_1"):
        outputs = [unrolled_lstm(params[name], rows, 7).reshape(3, 28, 7)]
        if bidirectional:
            backward = unrolled_lstm(params[f"{name}_backward"], rows[:, ::-1], 7)
            outputs.append(backward.reshape(3, 28, 7)[:, ::-1])
        rows = np.concatenate(outputs, axis=-1)
    expected = dense(params["mean"], rows.reshape(3, -1))
    np.testing.assert_allclose(mean, expected, rtol=1e-4, atol=1e-5)


def relu(x):
    return np.maximum(x, 0.0)


def swish(x):
    """Ramachandran et al. 2017, equation 1 with beta = 1."""
    return x / (1.0 + np.exp(-x))


@pytest.mark.parametrize(("activation", "function"), [("relu", relu), ("swish", swish)])
def test_dense_layers_before_the_heads_equal_matrix_products(activation, function):
    encoder = LSTMEncoder(latent_size=5, hidden_size=7, mlp_sizes=(11, 9), activation=activation)
    params = with_random_biases(jax.jit(encoder.init)(jax.random.key(0), BATCH)["params"])
    posterior = jax.jit(encoder.apply)({"params": params}, BATCH)
    features = unrolled_lstm(params["lstm"], IMAGES, 7)
    for name in ("Dense_0", "Dense_1"):
        features = function(dense(params[name], features))
    np.testing.assert_allclose(
        posterior.mean, dense(params["mean"], features), rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(
        posterior.log_var, dense(params["log_var"], features), rtol=1e-4, atol=1e-5
    )


def test_means_through_relu_are_cut_off_at_zero_and_log_variances_are_not():
    plain, cut_off = (
        LSTMEncoder(latent_size=5, hidden_size=7, mean_activation=activation)
        for activation in ("none", "relu")
    )
    variables = jax.jit(plain.init)(jax.random.key(0), BATCH)
    posterior = jax.jit(plain.apply)(variables, BATCH)
    assert posterior.mean.min() < 0 < posterior.mean.max()
    assert posterior.log_var.min() < 0
    found = jax.jit(cut_off.apply)(variables, BATCH)
    np.testing.assert_array_equal(found.mean, np.maximum(posterior.mean, 0.0))
    np.testing.assert_array_equal(found.log_var, posterior.log_var)


def test_another_activation_of_the_mean_is_an_error():
    encoder = DenseEncoder(latent_size=5, mean_activation="elu")
    with pytest.raises(ValueError, match="mean_activation is 'elu', must be 'none' or 'relu'"):
        jax.jit(encoder.init)(jax.random.key(0), BATCH)


def test_dense_encoder_equals_matrix_products():
    encoder = DenseEncoder(latent_size=5, dense_sizes=(11, 9))
    params = with_random_biases(jax.jit(encoder.init)(jax.random.key(0), BATCH)["params"])
    posterior = jax.jit(encoder.apply)({"params": params}, BATCH)
    features = IMAGES.reshape(3, -1)
    for name in ("Dense_0", "Dense_1"):
        features = np.maximum(dense(params[name], features), 0.0)
    np.testing.assert_allclose(
        posterior.mean, dense(params["mean"], features), rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(
        posterior.log_var, dense(params["log_var"], features), rtol=1e-4, atol=1e-5
    )
