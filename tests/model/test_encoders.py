"""The encoders against hand-written NumPy."""

import jax
import numpy as np
import pytest
import scipy.special

from vae_jax.model.encoders import DenseEncoder, LSTMEncoder
from vae_jax.runtime import devices

IMAGES = np.random.RandomState(0).uniform(size=(3, 28, 28, 1)).astype(np.float32)


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
    params = with_random_biases(jax.jit(encoder.init)(jax.random.key(0), IMAGES)["params"])
    mean, log_var = jax.jit(encoder.apply)({"params": params}, IMAGES)
    features = unrolled_lstm(params["lstm"], IMAGES, 7)
    assert features.shape == (3, 28 * 7)
    np.testing.assert_allclose(mean, dense(params["mean"], features), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(log_var, dense(params["log_var"], features), rtol=1e-4, atol=1e-5)


def test_lstm_encoder_reads_rows_from_the_top():
    # The first 7 features are the output after the top row: other rows cannot reach them.
    encoder = LSTMEncoder(latent_size=5, hidden_size=7)
    params = jax.jit(encoder.init)(jax.random.key(0), IMAGES)["params"]
    only_first = jax.tree.map(np.array, params)
    only_first["mean"]["kernel"][7:] = 0.0
    changed = IMAGES.copy()
    changed[:, 1:] = 0.5
    first, second = (
        jax.jit(encoder.apply)({"params": only_first}, images)[0] for images in (IMAGES, changed)
    )
    np.testing.assert_allclose(first, second, rtol=1e-6)
    changed[:, 0] = 0.5
    assert np.all(first != jax.jit(encoder.apply)({"params": only_first}, changed)[0])


def test_how_many_rows_an_accelerator_takes_at_a_time_changes_nothing(monkeypatch):
    images = IMAGES[:, :10]  # not a multiple of them
    encoder = LSTMEncoder(latent_size=5, hidden_size=7, bidirectional=True)
    params = jax.jit(encoder.init)(jax.random.key(0), images)

    def gradient():
        def loss(params):
            return sum((output**2).sum() for output in encoder.apply(params, images))

        return str(jax.make_jaxpr(loss)(params)), jax.jit(jax.grad(loss))(params)

    one_row_loop, one_row = gradient()
    monkeypatch.setattr(devices, "by_platform", lambda cpu, accelerator: accelerator)
    loop, several_rows = gradient()
    assert "unroll=7" in loop and "unroll=7" not in one_row_loop
    for expected, found in zip(*map(jax.tree.leaves, (one_row, several_rows)), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_layers_and_directions_equal_unrolled_lstms(bidirectional):
    encoder = LSTMEncoder(latent_size=5, hidden_size=7, num_layers=2, bidirectional=bidirectional)
    params = with_random_biases(jax.jit(encoder.init)(jax.random.key(0), IMAGES)["params"])
    mean, _ = jax.jit(encoder.apply)({"params": params}, IMAGES)
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
    params = with_random_biases(jax.jit(encoder.init)(jax.random.key(0), IMAGES)["params"])
    mean, log_var = jax.jit(encoder.apply)({"params": params}, IMAGES)
    features = unrolled_lstm(params["lstm"], IMAGES, 7)
    for name in ("Dense_0", "Dense_1"):
        features = function(dense(params[name], features))
    np.testing.assert_allclose(mean, dense(params["mean"], features), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(log_var, dense(params["log_var"], features), rtol=1e-4, atol=1e-5)


def test_means_through_relu_are_cut_off_at_zero_and_log_variances_are_not():
    plain, cut_off = (
        LSTMEncoder(latent_size=5, hidden_size=7, mean_activation=activation)
        for activation in ("none", "relu")
    )
    variables = jax.jit(plain.init)(jax.random.key(0), IMAGES)
    mean, log_var = jax.jit(plain.apply)(variables, IMAGES)
    assert mean.min() < 0 < mean.max()
    assert log_var.min() < 0
    np.testing.assert_array_equal(
        jax.jit(cut_off.apply)(variables, IMAGES), (np.maximum(mean, 0.0), log_var)
    )


def test_another_activation_of_the_mean_is_an_error():
    encoder = DenseEncoder(latent_size=5, mean_activation="elu")
    with pytest.raises(ValueError, match="mean_activation is 'elu', must be 'none' or 'relu'"):
        jax.jit(encoder.init)(jax.random.key(0), IMAGES)


def test_dense_encoder_equals_matrix_products():
    encoder = DenseEncoder(latent_size=5, dense_sizes=(11, 9))
    params = with_random_biases(jax.jit(encoder.init)(jax.random.key(0), IMAGES)["params"])
    mean, log_var = jax.jit(encoder.apply)({"params": params}, IMAGES)
    features = IMAGES.reshape(3, -1)
    for name in ("Dense_0", "Dense_1"):
        features = np.maximum(dense(params[name], features), 0.0)
    np.testing.assert_allclose(mean, dense(params["mean"], features), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(log_var, dense(params["log_var"], features), rtol=1e-4, atol=1e-5)
