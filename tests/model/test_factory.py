"""Parts of a model are built of the fields that they declare, a part of one's own too."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from configs import default
from vae_jax.model.decoders import DECODERS, ConvTransposeDecoder
from vae_jax.model.encoders import ENCODERS, DenseEncoder, LSTMEncoder
from vae_jax.model.factory import build
from vae_jax.model.priors import PRIORS
from vae_jax.model.structs import Batch
from vae_jax.model.vae import create_vae


@dataclasses.dataclass(frozen=True)
class Square:
    """One kind, with a value that no configuration holds."""

    side: int
    color: str = "red"
    unit: str = "cm"


@dataclasses.dataclass(frozen=True)
class Circle:
    """Another kind, which has no unit."""

    radius: int
    color: str = "blue"


SHAPES = {"square": Square, "circle": Circle}


def build_shape(**attributes):
    return build("shape", SHAPES, attributes, {"unit": "m"})


def test_a_kind_gets_its_own_fields_of_a_group_that_holds_those_of_all():
    group = {"side": 2, "radius": 3, "color": "green"}
    assert build_shape(kind="square", **group) == Square(2, "green", "m")
    assert build_shape(kind="circle", **group) == Circle(3, "green")
    assert build_shape(kind="square", side=2) == Square(2, "red", "m")


def test_an_unknown_kind_is_an_error_that_lists_the_kinds():
    with pytest.raises(ValueError, match=r"^shape kind is 'line', must be one of square, circle$"):
        build_shape(kind="line")


def test_an_attribute_of_no_kind_is_an_error_that_names_it():
    with pytest.raises(ValueError, match=r"^no shape has an attribute 'radios'$"):
        build_shape(kind="circle", radius=3, radios=4)


@pytest.mark.parametrize(
    ("part", "group"),
    [
        ("encoder", {"kind": "lstm", "hidden_sizes": 5}),
        ("decoder", {"filter": (2,)}),
        ("prior", {"kind": "mixture", "components": 5}),
    ],
)
def test_a_misspelled_attribute_of_a_part_is_an_error(part, group):
    groups = {
        "encoder": {"kind": "dense"},
        "decoder": {"dense_sizes": (), "grid_channels": 1, "filters": (2,), "strides": (4,)},
        "prior": {"kind": "standard_normal"},
    }
    groups[part] = groups[part] | group
    with pytest.raises(ValueError, match=f"^no {part} has an attribute '{[*group][-1]}'$"):
        create_vae(3, **groups)


@pytest.mark.parametrize("part", ["decoder", "prior"])
def test_an_unknown_kind_of_a_part_is_an_error(part):
    groups = {"encoder": {"kind": "dense"}, "decoder": {}, "prior": {"kind": "standard_normal"}}
    if part == "prior":
        groups["decoder"] = default.get_config().decoder
    groups[part] = {"kind": "own"}
    allowed = ", ".join({"decoder": DECODERS, "prior": PRIORS}[part])
    with pytest.raises(ValueError, match=f"^{part} kind is 'own', must be one of {allowed}$"):
        create_vae(3, **groups)


class Inheriting(LSTMEncoder):
    """An encoder of one's own that declares nothing anew."""


class Extending(LSTMEncoder):
    """An encoder of one's own with one more field."""

    scale: float = 1.0

    @nn.compact
    def __call__(self, batch):
        return super().__call__(Batch(self.scale * batch.images, batch.labels))


@pytest.mark.parametrize("kind", [Inheriting, Extending])
def test_a_subclass_of_an_encoder_keeps_its_configured_sizes(kind, monkeypatch):
    """The fields it inherits are as much its own as those that it declares."""
    monkeypatch.setitem(ENCODERS, "own", kind)
    group = default.get_config().encoder.to_dict() | {
        "kind": "own",
        "hidden_size": 5,
        "num_layers": 2,
        "bidirectional": True,
        "mlp_sizes": (11,),
        "activation": "swish",
        "mean_activation": "relu",
    }
    if kind is Extending:
        group["scale"] = 2.0
    model = create_vae(3, group, default.get_config().decoder)
    expected = {name: value for name, value in group.items() if name not in ("kind", "dense_sizes")}
    assert {name: getattr(model.encoder, name) for name in expected} == expected
    assert type(model.encoder) is kind
    assert model.encoder.latent_size == 3
    params = jax.eval_shape(model.encoder.init, jax.random.key(0), Batch(jnp.zeros((1, 8, 6, 1))))
    shapes = jax.tree.map(lambda leaf: leaf.shape, params["params"])
    assert shapes["lstm"]["ii"]["kernel"] == (6, 5)
    assert shapes["lstm_1_backward"]["ii"]["kernel"] == (10, 5)
    assert shapes["Dense_0"]["kernel"] == (8 * 10, 11)
    assert shapes["mean"]["kernel"] == (11, 3)


def test_a_subclass_of_a_decoder_keeps_its_configured_sizes(monkeypatch):
    class Own(ConvTransposeDecoder):
        pass

    monkeypatch.setitem(DECODERS, "own", Own)
    group = {"kind": "own", "dense_sizes": (7,), "grid_channels": 3, "filters": (2,)}
    model = create_vae(3, {"kind": "dense"}, group | {"strides": (4,), "head": "conv"})
    assert type(model.decoder) is Own
    assert (model.decoder.dense_sizes, model.decoder.grid_channels) == ((7,), 3)
    assert model.decoder.head == "conv"


def test_an_encoder_without_some_fields_of_the_group_is_given_the_others(monkeypatch):
    class Own(nn.Module):
        latent_size: int
        hidden_size: int = 64

    monkeypatch.setitem(ENCODERS, "own", Own)
    group = default.get_config().encoder.to_dict() | {"kind": "own", "hidden_size": 5}
    encoder = create_vae(3, group, default.get_config().decoder).encoder
    assert (encoder.latent_size, encoder.hidden_size) == (3, 5)
    # A kind that has no such field is not in its way.
    group["kind"] = "dense"
    assert isinstance(create_vae(3, group, default.get_config().decoder).encoder, DenseEncoder)
