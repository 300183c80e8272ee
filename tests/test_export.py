"""Mode `export`: programs that compute the same elsewhere, in complete folders."""

import functools
import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export as jax_export
from jax.extend import core

from tests.support.common import apply, assert_trees_equal
from vae_jax import create_vae, export
from vae_jax.evaluation import generation, programs
from vae_jax.evaluation.programs import PLATFORMS, programs_of, to_stablehlo
from vae_jax.evaluation.trained_run import restore_best
from vae_jax.model.structs import Batch
from vae_jax.runtime.output_record import record_names
from vae_jax.training.run_directory import RunDirectory
from vae_jax.training.weights import WEIGHTS_NAME, read_weights

LSTM = {"kind": "lstm", "hidden_size": 8}
DENSE = {"kind": "dense", "dense_sizes": (16,)}
BASELINE = {"grid_channels": 2, "filters": (12, 6, 6), "strides": (1, 1, 2), "dense_sizes": (9,)}
FLAGSHIP = {
    **{"dense_sizes": (9,), "grid_channels": 6, "filters": (12, 9, 5), "strides": (1, 2, 2)},
    **{"residual_blocks": (1, 1, 0), "activation": "swish", "head": "conv"},
}
BIDIRECTIONAL = LSTM | {
    "bidirectional": True,
    "map_channels": 3,
    "residual_blocks": 1,
    "mlp_sizes": (9,),
    "activation": "swish",
}
FLOW = {"kind": "coupling_flow", "num_layers": 2, "hidden_size": 4}
# Encoder, decoder, shape of an image, likelihood, prior.
KINDS = {
    "flagship": (BIDIRECTIONAL, FLAGSHIP, (14, 14, 1), "bernoulli", FLOW),
    "dense": (DENSE, BASELINE, (9, 7, 1), "continuous_bernoulli", None),
    "gaussian": (BIDIRECTIONAL | {"num_layers": 2}, FLAGSHIP, (10, 13, 3), "gaussian", None),
    "discretized": (DENSE, FLAGSHIP, (12, 8, 3), "discretized_logistic", None),
}
# A process without the packages that only this project needs.
_FRESH_PROCESS = """
import sys
import numpy as np
sys.modules |= dict.fromkeys(("flax", "vae_jax", "ml_collections", "absl"))  # not importable
exec(open("README.md").read().split("```")[1].removeprefix("python"))
assert mean.shape == log_var.shape == (3, 8)
np.save("means.npy", decoder.call(np.load("latents.npy")))
"""


@functools.cache
def make_programs(kind):
    """A model of that kind, random parameters, and its programs."""
    model = create_vae(3, *KINDS[kind])
    batch, key = Batch(jnp.zeros((1, *KINDS[kind][2]))), jax.random.key(0)
    params = jax.eval_shape(model.init, key, batch, key)["params"]
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: jnp.asarray(0.3 * rng.normal(size=leaf.shape), jnp.float32), params
    )
    return model, params, programs_of(model, params)


def make_rows(program, num_rows):
    """Rows of the program's only input."""
    [row] = program.inputs.values()
    rows = np.random.default_rng(1).uniform(size=(num_rows, *row.shape[1:]))
    return rows.astype(row.dtype)


def expected_outputs(kind, name, rows):
    model, params, _ = make_programs(kind)
    if name == "prior":
        return (generation.from_base(model, params, rows),)
    if name == "encoder":
        arrays = apply(model, params, Batch(rows), method="posterior").to_arrays()
        return tuple(arrays.values())
    return (generation._call(model, params, generation._means, rows, Batch()),)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["flagship", "discretized"])
def test_one_file_serves_any_number_of_images(kind):
    for name, program in make_programs(kind)[-1].items():
        exported = jax_export.deserialize(bytearray(to_stablehlo(program)))
        assert exported.platforms == PLATFORMS
        for num_rows in (1, 100):
            rows = make_rows(program, num_rows)
            found = jax.tree.leaves(exported.call(rows))
            for one, other in zip(found, expected_outputs(kind, name, rows), strict=True):
                # Bit for bit, but for the flow: it is computed 100 rows at a time.
                np.testing.assert_allclose(one, other, rtol=1e-5 if name == "prior" else 0.0)


@pytest.mark.slow
def test_programs_are_converted_in_operations_that_jax2onnx_knows():
    for name, program in make_programs("flagship")[-1].items():
        rows = make_rows(program, 3)
        traced = programs.trace_for_conversion(
            program, [jax.ShapeDtypeStruct(rows.shape, rows.dtype)]
        )
        for unknown in ("platform_index", "reverse=True", "lhs_dilation=(2"):
            assert unknown not in str(traced)
        found = jax.jit(core.jaxpr_as_fun(traced))(rows)
        expected = expected_outputs("flagship", name, rows)
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.nightly
@pytest.mark.skipif(not programs.has_onnx(), reason="the extra onnx is not installed")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
def test_onnx_runtime_computes_the_same(kind):
    onnxruntime = pytest.importorskip("onnxruntime")
    for name, program in make_programs(kind)[-1].items():
        session = onnxruntime.InferenceSession(programs.to_onnx(name, program))
        for num_rows in (1, 100):
            rows = make_rows(program, num_rows)
            [input_name] = program.inputs
            found = session.run([*program.output_names], {input_name: rows})
            for one, other in zip(found, expected_outputs(kind, name, rows), strict=True):
                np.testing.assert_allclose(one, other, atol=1e-4)


@pytest.fixture
def without_onnx(monkeypatch):
    monkeypatch.setattr(programs, "has_onnx", lambda: False)


@pytest.mark.slow
def test_a_process_with_jax_alone_reads_the_readme_and_decodes_bit_for_bit(
    trained_run, tmp_path, capsys, without_onnx
):
    run, folder = RunDirectory.open(trained_run), tmp_path / "export"
    record_names(tmp_path, ["export"])
    folder.mkdir()
    (folder / "encoder.onnx").touch()  # of an earlier export
    export.export(run, tmp_path)
    assert "pip install -e '.[onnx]'" in capsys.readouterr().out
    names = {"README.md", "encoder.stablehlo", "decoder.stablehlo", WEIGHTS_NAME}
    assert {path.name for path in folder.iterdir()} == names
    latents = np.random.default_rng(0).normal(size=(100, run.config.latent_size))
    latents = latents.astype(np.float32)
    np.save(folder / "latents.npy", latents)
    subprocess.run([sys.executable, "-c", _FRESH_PROCESS], cwd=folder, check=True, timeout=120)
    [replica] = restore_best(run).replicas
    expected = generation.decode(*replica.model_and_params, latents)
    np.testing.assert_array_equal(np.load(folder / "means.npy"), expected)
    params, metadata = read_weights(folder / WEIGHTS_NAME, replica.params)
    assert_trees_equal(params, replica.params)
    numbers = {name: str(getattr(replica, name)) for name in ("epoch", "step", "seed")}
    assert metadata.items() >= numbers.items()
    decoded = [
        jax.jit(functools.partial(model.apply, method="decode"))(
            {"params": params}, latents, Batch()
        )
        for model in (create_vae(**json.loads(metadata["model"])), replica.model)
    ]
    np.testing.assert_array_equal(*decoded)
