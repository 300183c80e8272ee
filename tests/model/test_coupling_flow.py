"""The coupling flow against numerical Jacobians, integrals and the standard normal."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from tests.support.common import apply
from vae_jax.model.coupling_flow import CouplingFlow

FLOW = CouplingFlow(latent_size=5, num_layers=4, hidden_size=8)
LATENTS = np.random.RandomState(0).normal(size=(7, 5)).astype(np.float32)


def bent(flow, seed=0, scale=0.3):
    """Parameters of a flow that has learned something."""
    size = jnp.zeros((1, flow.latent_size))
    params = flow.init(jax.random.key(seed), size, method="log_density")["params"]
    leaves, structure = jax.tree.flatten(params)
    random = np.random.RandomState(seed)
    return structure.unflatten(
        [leaf + scale * random.normal(size=leaf.shape).astype(np.float32) for leaf in leaves]
    )


def fresh(flow):
    return flow.init(jax.random.key(0), LATENTS[:, : flow.latent_size], method="log_density")[
        "params"
    ]


def test_it_begins_as_the_standard_normal():
    density = apply(FLOW, fresh(FLOW), LATENTS, method="log_density")
    np.testing.assert_allclose(density, scipy.stats.norm.logpdf(LATENTS).sum(1), rtol=1e-6)


@pytest.mark.parametrize("size", [2, 5])
def test_there_and_back(size):
    flow = CouplingFlow(size, num_layers=10, hidden_size=8)
    params, latents = bent(flow, scale=0.1), LATENTS[:, :size]
    base = apply(flow, params, latents, method="to_base")
    assert np.abs(base - latents).max() > 0.5
    # Ten layers bent this much lose two of the seven digits that float32 has; twice as much, four.
    np.testing.assert_allclose(
        apply(flow, params, base, method="from_base"), latents, rtol=5e-5, atol=5e-5
    )


def test_the_density_has_the_jacobian_s_determinant():
    params = bent(FLOW)
    to_base = lambda z: apply(FLOW, params, z[None], method="to_base")[0]  # noqa: E731
    jacobian = jax.vmap(jax.jacfwd(to_base))(jnp.asarray(LATENTS))
    _, log_det = np.linalg.slogdet(np.asarray(jacobian, np.float64))
    base = np.asarray(apply(FLOW, params, LATENTS, method="to_base"))
    expected = scipy.stats.norm.logpdf(base).sum(1) + log_det
    np.testing.assert_allclose(
        apply(FLOW, params, LATENTS, method="log_density"), expected, rtol=1e-4
    )


@pytest.mark.slow
def test_the_density_in_a_plane_integrates_to_one():
    flow = CouplingFlow(2, num_layers=6, hidden_size=8)
    params = bent(flow, scale=0.2)
    edge = np.linspace(-20.0, 20.0, 1601, dtype=np.float32)
    points = np.stack(np.meshgrid(edge, edge), -1).reshape(-1, 2)
    density = np.exp(np.asarray(apply(flow, params, points, method="log_density"), np.float64))
    assert density.sum() * (edge[1] - edge[0]) ** 2 == pytest.approx(1.0, abs=2e-3)


def test_samples_have_the_density_s_mean():
    params = bent(FLOW)
    samples = FLOW.apply({"params": params}, jax.random.key(1), 4000, method="sample")
    base = np.asarray(apply(FLOW, params, samples, method="to_base"))
    assert scipy.stats.kstest(base.ravel(), "norm").pvalue > 1e-3


@pytest.mark.parametrize("size", [1e3, -1e3])
def test_gradients_are_finite_far_out(size):
    params = bent(FLOW)
    loss = lambda p, z: apply(FLOW, p, z, method="log_density").sum()  # noqa: E731
    for gradients in jax.grad(loss, argnums=(0, 1))(params, jnp.full((3, 5), size)):
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
