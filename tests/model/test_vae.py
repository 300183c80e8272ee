"""The decoder and the autoencoder: shapes, dropout, keys, the parts, and how they are built."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from configs import default
from tests.support.common import apply
from vae_jax.model import batch_axis
from vae_jax.model.decoders import ConvTransposeDecoder
from vae_jax.model.encoders import ENCODERS, LSTMEncoder
from vae_jax.model.structs import Batch
from vae_jax.model.vae import apply as vae_apply
from vae_jax.model.vae import create_vae

SIZE = 8
LATENTS = np.random.RandomState(0).normal(size=(3, 6)).astype(np.float32)
NOTHING = Batch()
SMALL = {"dense_sizes": (20,), "grid_channels": 2, "filters": (3, 4), "strides": (2, 2)}


def decoder(**fields):
    return ConvTransposeDecoder(output_shape=(SIZE, SIZE, 1), **SMALL | fields)


def decode(layer, variables, *dropout_key):
    return jax.jit(layer.apply)(variables, LATENTS, NOTHING, *dropout_key)


def init(layer):
    return jax.jit(layer.init)(jax.random.key(0), LATENTS, NOTHING)


@pytest.fixture(scope="module")
def vae():
    encoder, fields = {"kind": "lstm", "hidden_size": 5}, {"dropout_rate": 0.5}
    model = create_vae(6, encoder, SMALL | fields | {"dropout_after": (0,)}, (SIZE, SIZE, 1))
    batch = Batch(jax.random.uniform(jax.random.key(1), (3, SIZE, SIZE, 1)))
    return model, jax.jit(model.init)(jax.random.key(0), batch, jax.random.key(0))["params"], batch


@pytest.mark.slow
@pytest.mark.parametrize(
    ("activation", "function", "head"), [("relu", nn.relu, "dense"), ("swish", nn.swish, "conv")]
)
def test_the_decoder_equals_library_layers(activation, function, head):
    layer = decoder(residual_blocks=(2, 1), activation=activation, head=head)
    params = init(layer)["params"]
    blocks = {name: value for name, value in params.items() if name.startswith("ResidualBlock")}
    assert len(blocks) == 3
    without = {"params": {name: value for name, value in params.items() if name not in blocks}}
    np.testing.assert_array_equal(  # they begin as the identity
        decode(layer, {"params": params}),
        decode(decoder(activation=activation, head=head), without),
    )
    generator = np.random.RandomState(1)
    params = jax.tree.map(lambda leaf: leaf + 0.1 * generator.normal(size=leaf.shape), params)

    def convolve(kind, params, x, *options):
        return kind(len(params["bias"]), (3, 3), *options).apply({"params": params}, x)

    @jax.jit
    def expected(params, x):
        for name in ("Dense_0", "Dense_1"):
            x = function(x @ params[name]["kernel"] + params[name]["bias"])
        x = x.reshape(3, 2, 2, 2)
        for index in range(2):
            x = convolve(nn.ConvTranspose, params[f"ConvTranspose_{index}"], x, (2, 2))
            for number in ((0, 1), (2,))[index]:
                # SAME at stride 1: the library's convolution has the same kernel.
                block = params[f"ResidualBlock_{number}"]
                y = convolve(nn.Conv, block["ConvTranspose_0"], function(x))
                x = x + convolve(nn.Conv, block["ConvTranspose_1"], function(y))
            x = function(x)
        if head == "conv":
            return convolve(nn.Conv, params["logits"], x)
        x = x.reshape(3, -1) @ params["logits"]["kernel"] + params["logits"]["bias"]
        return x.reshape(3, SIZE, SIZE, 1)

    actual = decode(layer, {"params": params})
    np.testing.assert_allclose(actual, expected(params, LATENTS), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["lstm", "dense"])
@pytest.mark.parametrize("shape", [(28, 20, 1), (32, 32, 3), (1, 40, 1)])
def test_images_of_any_shape(shape, kind):
    encoder = {"kind": kind, "hidden_size": 5, "dense_sizes": (9,)}
    key, batch = jax.random.key(0), Batch(jnp.zeros((2, *shape)))
    for head in ("dense", "conv"):
        fields = SMALL | {"filters": (3, 4, 2), "strides": (2, 2, 2), "head": head}
        for likelihood, outputs_a_channel in (("bernoulli", 1), ("discretized_logistic", 2)):
            model = create_vae(6, encoder, fields, shape, likelihood)
            outputs, _ = jax.eval_shape(lambda m=model: m.init_with_output(key, batch, key))
            assert outputs.shape == (2, *shape[:2], outputs_a_channel * shape[2])


@pytest.mark.slow
def test_maps_larger_than_the_images_are_cropped():
    layer, larger = (
        ConvTransposeDecoder(output_shape=shape, **SMALL | {"head": "conv"})
        for shape in ((5, 7, 3), (8, 8, 3))
    )
    variables = init(larger)
    cropped, expected = decode(layer, variables), decode(larger, variables)
    assert cropped.shape == (3, 5, 7, 3)
    # A pixel at the edge sees zeros beyond it.
    np.testing.assert_allclose(cropped[:, :4, :6], expected[:, :4, :6], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_learned_scale_follows_the_outputs_of_the_decoder():
    model = create_vae(6, {"kind": "dense"}, SMALL, (4, 4, 3), "gaussian")
    key, batch = jax.random.key(0), Batch(jnp.zeros((2, 4, 4, 3)))
    params = dict(jax.jit(model.init)(key, batch, key)["params"])
    assert params["raw_scale"].shape == (3,)
    params["raw_scale"] = jnp.array([1.0, 2.0, 3.0])
    outputs = apply(model, params, LATENTS, NOTHING, method="decode")
    np.testing.assert_array_equal(outputs[..., 3:], np.broadcast_to([1.0, 2.0, 3.0], (3, 4, 4, 3)))


@pytest.mark.slow
def test_dropout_follows_the_layers_named_and_needs_a_key(monkeypatch):
    shapes, draw = [], batch_axis.draw

    def record(sampler, key, shape, axis):
        shapes.append(shape)
        return draw(sampler, key, shape, axis)

    monkeypatch.setattr(batch_axis, "draw", record)
    layer = decoder(dropout_rate=0.75, dropout_after=(1,))
    variables, key = init(layer), jax.random.key(7)
    decode(layer, variables, key)
    assert shapes == [(3, SIZE, SIZE, 4)]  # after the second, not the first
    plain = decode(layer, variables)
    np.testing.assert_array_equal(plain, decode(decoder(), variables))
    outputs = [decode(layer, variables, key) for key in (key, key, jax.random.key(8))]
    np.testing.assert_array_equal(outputs[0], outputs[1])
    assert not np.allclose(plain, outputs[0])
    assert not np.allclose(outputs[0], outputs[2])


@pytest.mark.slow
def test_log_weights_are_the_three_densities_of_their_samples(vae):
    model, params, batch = vae
    batch = dataclasses.replace(batch, images=jnp.round(batch.images))
    key = jax.random.key(3)

    def weigh(posterior, batch, key):
        return apply(model, params, batch, posterior.sample(key, 2), method="log_weights_of")

    own = apply(model, params, batch, method="posterior")
    wide = dataclasses.replace(own, log_var=own.log_var + 2.0)  # another's
    log_weights, log_likelihood = weigh(wide, batch, key)
    q = scipy.stats.norm(wide.mean, np.exp(0.5 * np.float64(wide.log_var)))
    for index, z in enumerate(np.asarray(wide.sample(key, 2).latents)):
        logits = apply(model, params, z, batch, method="decode")
        bernoulli = scipy.stats.bernoulli(scipy.special.expit(logits))
        expected = bernoulli.logpmf(batch.images).sum((1, 2, 3))
        np.testing.assert_allclose(log_likelihood[index], expected, rtol=1e-4)
        expected += scipy.stats.norm.logpdf(z).sum(1) - q.logpdf(z).sum(1)
        np.testing.assert_allclose(log_weights[index], expected, rtol=1e-4)
    drawn = vae_apply(model, params, batch, key, 2, method="log_weights")
    np.testing.assert_allclose(drawn, weigh(own, batch, key)[0], rtol=1e-5)


@pytest.mark.parametrize(
    ("part", "fields", "words"),
    [
        ("encoder", {"kind": "gru"}, "encoder kind is 'gru', must be one of lstm, dense"),
        ("likelihood", "laplace", "likelihood kind is 'laplace', must be one of bernoulli"),
        ("prior", {"kind": "mixture", "components": 5}, "no prior has an attribute 'components'"),
    ],
)
def test_unknown_kinds_and_attributes_are_errors(part, fields, words):
    with pytest.raises(ValueError, match=words):
        create_vae(3, **{"encoder": {"kind": "dense"}, "decoder": SMALL} | {part: fields})


class Own(LSTMEncoder):
    """An encoder of one's own with one more field."""

    scale: float = 1.0


def test_a_part_gets_those_fields_of_its_group_that_it_declares_or_inherits(monkeypatch):
    monkeypatch.setitem(ENCODERS, "own", Own)
    changed = {"hidden_size": 5, "mlp_sizes": (11,), "mean_activation": "relu", "scale": 2.0}
    group = default.get_config().encoder.to_dict() | changed | {"kind": "own"}
    model = create_vae(3, group, default.get_config().decoder)
    assert type(model.encoder) is Own
    assert model.encoder.latent_size == 3
    assert {name: getattr(model.encoder, name) for name in changed} == changed
