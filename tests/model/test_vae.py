"""The decoder and the whole autoencoder: shapes, dropout, keys, and that the parts agree."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from configs import default
from tests.support.common import apply
from vae_jax.model.decoders import ConvTransposeDecoder
from vae_jax.model.structs import Batch
from vae_jax.model.vae import apply as vae_apply
from vae_jax.model.vae import create_vae

LATENTS = np.random.RandomState(0).normal(size=(3, 6)).astype(np.float32)
NOTHING = Batch()  # what a decoder is told of images beside their latents
SMALL = {"dense_sizes": (20,), "grid_channels": 2, "filters": (3, 4), "strides": (2, 2)}


def decoder(**fields):
    return ConvTransposeDecoder(output_shape=(28, 28, 1), **SMALL | fields)


@pytest.fixture(scope="module")
def vae():
    encoder = {"kind": "lstm", "hidden_size": 5}
    model = create_vae(6, encoder, SMALL | {"dropout_rate": 0.5, "dropout_after": (0,)})
    batch = Batch(jax.random.uniform(jax.random.key(1), (3, 28, 28, 1)))
    return model, jax.jit(model.init)(jax.random.key(0), batch, jax.random.key(0)), batch


def test_decoder_equals_library_layers():
    params = jax.jit(decoder().init)(jax.random.key(0), LATENTS, NOTHING)["params"]
    x = LATENTS
    for name in ("Dense_0", "Dense_1"):
        x = np.maximum(x @ params[name]["kernel"] + params[name]["bias"], 0.0)
    x = x.reshape(3, 7, 7, 2)
    for name, features in (("ConvTranspose_0", 3), ("ConvTranspose_1", 4)):
        layer = nn.ConvTranspose(features, (3, 3), (2, 2))
        x = nn.relu(jax.jit(layer.apply)({"params": params[name]}, x))
    x = x.reshape(3, -1) @ params["logits"]["kernel"] + params["logits"]["bias"]
    actual = jax.jit(decoder().apply)({"params": params}, LATENTS, NOTHING)
    np.testing.assert_allclose(actual, x.reshape(3, 28, 28, 1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("activation", "function"), [("relu", nn.relu), ("swish", nn.swish)])
def test_residual_blocks_equal_library_layers_and_begin_as_nothing(activation, function):
    layer = decoder(residual_blocks=(2, 1), activation=activation)
    params = jax.jit(layer.init)(jax.random.key(0), LATENTS, NOTHING)["params"]
    blocks = {name: value for name, value in params.items() if name.startswith("ResidualBlock")}
    assert len(blocks) == 3
    without = {name: value for name, value in params.items() if name not in blocks}
    np.testing.assert_array_equal(
        jax.jit(layer.apply)({"params": params}, LATENTS, NOTHING),
        jax.jit(decoder(activation=activation).apply)({"params": without}, LATENTS, NOTHING),
    )
    generator = np.random.RandomState(1)
    params = jax.tree.map(lambda leaf: leaf + 0.1 * generator.normal(size=leaf.shape), params)
    x = LATENTS
    for name in ("Dense_0", "Dense_1"):
        x = function(x @ params[name]["kernel"] + params[name]["bias"])
    x = x.reshape(3, 7, 7, 2)
    for index, features in enumerate((3, 4)):
        transposed = nn.ConvTranspose(features, (3, 3), (2, 2))
        x = jax.jit(transposed.apply)({"params": params[f"ConvTranspose_{index}"]}, x)
        for number in ((0, 1), (2,))[index]:
            block = params[f"ResidualBlock_{number}"]
            # SAME at stride 1: the library's convolution has the same kernel.
            convolution = nn.Conv(features, (3, 3))
            y = jax.jit(convolution.apply)({"params": block["ConvTranspose_0"]}, function(x))
            x = x + jax.jit(convolution.apply)({"params": block["ConvTranspose_1"]}, function(y))
        x = function(x)
    x = x.reshape(3, -1) @ params["logits"]["kernel"] + params["logits"]["bias"]
    actual = jax.jit(layer.apply)({"params": params}, LATENTS, NOTHING)
    np.testing.assert_allclose(actual, x.reshape(3, 28, 28, 1), rtol=1e-4, atol=1e-5)


def test_convolutional_head():
    layer = decoder(head="conv")
    variables = jax.jit(layer.init)(jax.random.key(0), LATENTS, NOTHING)
    assert variables["params"]["logits"]["kernel"].shape == (3, 3, 4, 1)
    assert jax.jit(layer.apply)(variables, LATENTS, NOTHING).shape == (3, 28, 28, 1)


SHAPES = [(28, 20, 1), (105, 105, 1), (8, 8, 1), (32, 32, 3), (64, 64, 3), (1, 40, 1), (3, 2, 1)]


@pytest.mark.parametrize("head", ["dense", "conv"])
@pytest.mark.parametrize("kind", ["lstm", "dense"])
@pytest.mark.parametrize("shape", SHAPES)
def test_images_of_any_shape(shape, kind, head):
    fields = SMALL | {"filters": (3, 4, 2), "strides": (2, 2, 2), "head": head}
    encoder = {"kind": kind, "hidden_size": 5, "dense_sizes": (9,)}
    key, batch = jax.random.key(0), Batch(jnp.zeros((2, *shape)))
    for likelihood, num_outputs in (("bernoulli", 1), ("gaussian", 2), ("discretized_logistic", 2)):
        model = create_vae(6, encoder, fields, shape, likelihood)
        outputs, _ = jax.eval_shape(lambda m=model: m.init_with_output(key, batch, key))
        assert outputs.shape == (2, *shape[:2], num_outputs * shape[2])


def test_what_does_not_fit_is_cropped():
    layer = ConvTransposeDecoder(output_shape=(5, 7, 3), **SMALL | {"head": "conv"})
    whole = ConvTransposeDecoder(output_shape=(8, 8, 3), **SMALL | {"head": "conv"})
    variables = jax.jit(whole.init)(jax.random.key(0), LATENTS, NOTHING)
    cropped = jax.jit(layer.apply)(variables, LATENTS, NOTHING)
    # A pixel at the edge sees zeros where the whole image has others.
    expected = jax.jit(whole.apply)(variables, LATENTS, NOTHING)[:, :4, :6]
    np.testing.assert_allclose(cropped[:, :4, :6], expected, rtol=1e-4, atol=1e-5)
    assert cropped.shape == (3, 5, 7, 3)


def test_a_learned_scale_follows_the_outputs_of_the_decoder():
    model = create_vae(6, {"kind": "dense"}, SMALL, (4, 4, 3), "gaussian")
    key, batch = jax.random.key(0), Batch(jnp.zeros((2, 4, 4, 3)))
    params = dict(jax.jit(model.init)(key, batch, key)["params"])
    assert params["raw_scale"].shape == (3,)
    params["raw_scale"] = jnp.array([1.0, 2.0, 3.0])
    outputs = apply(model, params, LATENTS, NOTHING, method="decode")
    np.testing.assert_array_equal(outputs[..., 3:], np.broadcast_to([1.0, 2.0, 3.0], (3, 4, 4, 3)))


def test_kinds_that_do_not_exist():
    with pytest.raises(ValueError, match="encoder kind is 'gru', must be one of lstm, dense"):
        create_vae(6, {"kind": "gru"}, SMALL)
    with pytest.raises(ValueError, match="likelihood kind is 'laplace', must be one of bernoulli"):
        create_vae(6, {"kind": "lstm"}, SMALL, likelihood="laplace")
    with pytest.raises(ValueError, match="head is 'linear', must be 'dense' or 'conv'"):
        jax.jit(decoder(head="linear").init)(jax.random.key(0), LATENTS, NOTHING)
    with pytest.raises(ValueError, match="activation is 'elu', must be one of relu, swish"):
        jax.jit(decoder(activation="elu").init)(jax.random.key(0), LATENTS, NOTHING)


def test_dropout_follows_the_layers_named_and_needs_a_key():
    def maps(layer, variables, key):
        """The outputs of each transposed convolution as the next layer sees them."""
        _, state = layer.apply(
            variables,
            LATENTS,
            NOTHING,
            key,
            capture_intermediates=lambda module, _: isinstance(module, nn.Dropout),
        )
        return state.get("intermediates", {})

    layer = decoder(dropout_rate=0.75, dropout_after=(1,))
    variables = jax.jit(layer.init)(jax.random.key(0), LATENTS, NOTHING)
    key = jax.random.key(7)
    captured = maps(layer, variables, key)
    assert list(captured) == ["Dropout_0"]
    dropped = captured["Dropout_0"]["__call__"][0]
    assert dropped.shape == (3, 28, 28, 4)  # after the second, not the first
    plain = jax.jit(layer.apply)(variables, LATENTS, NOTHING)
    np.testing.assert_array_equal(plain, jax.jit(decoder().apply)(variables, LATENTS, NOTHING))
    assert not np.allclose(plain, jax.jit(layer.apply)(variables, LATENTS, NOTHING, key))
    np.testing.assert_array_equal(
        jax.jit(layer.apply)(variables, LATENTS, NOTHING, key),
        jax.jit(layer.apply)(variables, LATENTS, NOTHING, key),
    )
    assert maps(layer, variables, None) == {}


@pytest.mark.slow
def test_dropout_scales_what_it_keeps():
    # With the head a plain sum over pixels, the mean over masks is the value without dropout.
    layer = decoder(dropout_rate=0.5, dropout_after=(1,), head="conv")
    variables = jax.jit(layer.init)(jax.random.key(0), LATENTS, NOTHING)
    keys = jax.random.split(jax.random.key(1), 4000)
    means = jax.lax.map(
        lambda key: layer.apply(variables, LATENTS[:1], NOTHING, key).mean(), keys, batch_size=200
    )
    error = np.std(means) / np.sqrt(len(means))
    np.testing.assert_allclose(
        means.mean(), jax.jit(layer.apply)(variables, LATENTS[:1], NOTHING).mean(), atol=5 * error
    )


def test_the_parts_agree_with_the_whole(vae):
    model, variables, batch = vae
    params, key = variables["params"], jax.random.key(5)
    outputs = apply(model, params, batch, key)
    posterior = apply(model, params, batch, method="posterior")
    sample = posterior.sample(key)
    np.testing.assert_allclose(
        outputs, apply(model, params, sample.latents, batch, method="decode"), rtol=1e-5, atol=1e-6
    )
    log_likelihood = apply(model, params, sample.latents, batch, method="log_likelihood")
    expected = model.likelihood.log_prob(outputs, batch.images)
    np.testing.assert_allclose(log_likelihood, expected, rtol=1e-5)
    assert outputs.shape == (3, 28, 28, 1)
    assert posterior.mean.shape == posterior.log_var.shape == sample.latents.shape == (3, 6)
    assert sample.log_density.shape == log_likelihood.shape == (3,)


def test_a_decoder_does_not_look_at_the_images(vae):
    model, variables, batch = vae
    outputs = [
        apply(model, variables["params"], LATENTS, other, method="decode")
        for other in (batch, batch.without_images(), Batch(1.0 - batch.images))
    ]
    np.testing.assert_array_equal(outputs[0], outputs[1])
    np.testing.assert_array_equal(outputs[0], outputs[2])


def test_a_method_is_a_name_or_a_function_of_the_bound_model(vae):
    model, variables, batch = vae
    named = apply(model, variables["params"], batch, method="posterior")
    function = apply(model, variables["params"], batch, method=lambda model, b: model.encoder(b))
    jax.tree.map(np.testing.assert_array_equal, named, function)


def test_dropout_has_its_own_key(vae):
    model, variables, batch = vae
    key, other = jax.random.split(jax.random.key(1))
    plain, dropped, again, otherwise = (
        apply(model, variables["params"], LATENTS, batch, dropout_key, method="decode")
        for dropout_key in (None, key, key, other)
    )
    np.testing.assert_array_equal(dropped, again)
    assert not np.allclose(plain, dropped)
    assert not np.allclose(dropped, otherwise)


def test_log_weights_draw_their_samples_from_the_key(vae):
    model, variables, batch = vae
    params, key = variables["params"], jax.random.key(5)
    weights = vae_apply(model, params, batch, key, 4, method="log_weights")
    posterior = apply(model, params, batch, method="posterior")
    expected, _ = apply(model, params, batch, posterior.sample(key, 4), method="log_weights_of")
    assert weights.shape == (4, 3)
    np.testing.assert_allclose(weights, expected, rtol=1e-6)


def test_log_weights_are_those_of_their_samples(vae):
    model, variables, batch = vae
    params, key = variables["params"], jax.random.key(5)

    def weigh(batch, key, num_samples, posterior=None):
        posterior = posterior or vae_apply(model, params, batch, method="posterior")
        sample = posterior.sample(key, num_samples)
        return vae_apply(model, params, batch, sample, method="log_weights_of")

    weigh = jax.jit(weigh, static_argnums=2)
    expected, log_likelihood = weigh(batch, key, 4)
    assert expected.shape == log_likelihood.shape == (4, 3)
    # Each image's are its own, with a key for each image.
    keys = jax.random.split(key, 3)
    each = weigh(batch, keys, 4)[0]
    np.testing.assert_allclose(weigh(batch[1:], keys[1:], 4)[0], each[:, 1:], rtol=1e-5)
    assert not np.allclose(each, expected)
    # A posterior that is not the model's own gives that one's weights.
    posterior = apply(model, params, batch, method="posterior")
    wide = dataclasses.replace(posterior, log_var=posterior.log_var + 2.0)
    sample = wide.sample(key, 1)
    z = np.asarray(sample.latents[0], np.float64)
    scale = np.exp(0.5 * np.asarray(wide.log_var, np.float64))
    log_likelihood = apply(model, params, sample.latents[0], batch, method="log_likelihood")
    expected = np.asarray(log_likelihood, np.float64) + scipy.stats.norm.logpdf(z).sum(1)
    expected -= scipy.stats.norm.logpdf(z, np.asarray(wide.mean, np.float64), scale).sum(1)
    weights, same = weigh(batch, key, 1, wide)
    np.testing.assert_allclose(weights[0], expected, rtol=1e-5)
    np.testing.assert_allclose(same[0], log_likelihood, rtol=1e-5)


@pytest.mark.parametrize(
    ("kind", "parameters"),
    [
        # LSTM 4 (28 + 64 + 1) 64; heads 2 (28 * 64 + 1) 64
        ("lstm", 4 * (28 + 64 + 1) * 64 + 2 * (28 * 64 + 1) * 64),
        ("dense", (784 + 1) * 512 + (512 + 1) * 256 + 2 * (256 + 1) * 64),
    ],
)
def test_default_sizes(kind, parameters):
    config = default.get_config()
    config.encoder.kind = kind
    model = create_vae(config.latent_size, config.encoder, config.decoder)
    key = jax.random.key(0)
    batch = Batch(jnp.zeros((1, 28, 28, 1)))
    shapes = jax.eval_shape(lambda: jax.jit(model.init)(key, batch, key))["params"]
    count = {
        name: sum(leaf.size for leaf in jax.tree.leaves(part)) for name, part in shapes.items()
    }
    assert count["encoder"] == parameters
    assert count["decoder"] == (
        (64 + 1) * 196
        + (196 + 1) * 392
        + (9 * 2 + 1) * 32
        + (9 * 32) * 16
        + 16
        + (9 * 16 + 1) * 16
        + (28 * 28 * 16 + 1) * 784
    )
