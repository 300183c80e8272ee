"""What leaves the repository: programs that compute the same elsewhere, in whole folders."""

import dataclasses
import functools
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export as jax_export
from jax.extend import core

from tests.support.common import apply, assert_trees_equal, error_of
from tests.support.laplace import add_laplace_prior
from tests.test_package import EXTRAS
from vae_jax import create_vae, export
from vae_jax.evaluation import generation, onnx_programs
from vae_jax.evaluation.programs import PLATFORMS, Program, programs_of, to_stablehlo
from vae_jax.evaluation.trained_run import TrainedRun, restore_best
from vae_jax.model.conv_transpose import conv_transpose
from vae_jax.model.structs import Batch
from vae_jax.runtime.files import read_json, write_json
from vae_jax.training.run_directory import RunDirectory
from vae_jax.training.weights import WEIGHTS_NAME, read_weights

_LSTM = {"kind": "lstm", "hidden_size": 8}
_DENSE = {"kind": "dense", "dense_sizes": (16,)}
_BASELINE = {"grid_channels": 2, "filters": (12, 6, 6), "strides": (1, 1, 2), "dense_sizes": (9,)}
_FLAGSHIP = {
    **{"dense_sizes": (9,), "grid_channels": 6, "filters": (12, 9, 5), "strides": (1, 2, 2)},
    **{"residual_blocks": (1, 1, 0), "activation": "swish", "head": "conv"},
}
_BIDIRECTIONAL = _LSTM | {"bidirectional": True, "mlp_sizes": (9,), "activation": "swish"}
# Encoder, decoder, shape of an image, likelihood.
KINDS = {
    "baseline": (_LSTM, _BASELINE, (14, 14, 1), "bernoulli"),
    "flagship": (_BIDIRECTIONAL, _FLAGSHIP, (14, 14, 1), "bernoulli"),
    "dense": (_DENSE, _BASELINE, (9, 7, 1), "continuous_bernoulli"),
    "gaussian": (_BIDIRECTIONAL | {"num_layers": 2}, _FLAGSHIP, (10, 13, 3), "gaussian"),
    "discretized": (_DENSE, _FLAGSHIP, (12, 8, 3), "discretized_logistic"),
}
needs_onnx = pytest.mark.skipif(
    not onnx_programs.is_installed(), reason="jax2onnx is not installed: the extra onnx"
)
# What JAX itself needs; flatbuffers is what its `export` reads programs with.
_JAX_ALONE = ("jax", "jaxlib", "numpy", "scipy", "ml_dtypes", "opt_einsum", "flatbuffers")
_FRESH_PROCESS = """
import importlib.util
import numpy as np
assert not any(map(importlib.util.find_spec, ("flax", "vae_jax", "ml_collections", "absl")))
exec(open("README.md").read().split("```")[1].removeprefix("python"))
np.save("means.npy", decoder.call(np.load("latents.npy")))
"""


@functools.cache
def make_programs(kind):
    """A model of that kind, parameters that are no initial ones, and its programs."""
    encoder, decoder, shape, likelihood = KINDS[kind]
    model = create_vae(3, encoder, decoder, shape, likelihood)
    batch, key = Batch(jnp.zeros((1, *shape))), jax.random.key(0)
    params = jax.eval_shape(model.init, key, batch, key)["params"]
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: jnp.asarray(0.3 * rng.normal(size=leaf.shape), jnp.float32), params
    )
    return model, params, programs_of(model, params)


def make_rows(program, num_rows):
    """Rows of the program's only input."""
    [row] = program.inputs.values()
    rows = np.random.default_rng(1).uniform(size=(num_rows, *row.shape))
    return rows.astype(row.dtype)


def expected_outputs(kind, name, rows):
    model, params, _ = make_programs(kind)
    if name == "encoder":
        arrays = apply(model, params, Batch(rows), method="posterior").to_arrays()
        return tuple(arrays.values())
    return generation.decode_batch(model, params, rows, Batch())


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_one_file_serves_any_number_of_images_bit_for_bit(kind):
    for name, program in make_programs(kind)[-1].items():
        exported = jax_export.deserialize(bytearray(to_stablehlo(program)))
        assert exported.platforms == PLATFORMS
        for num_rows in (1, 3, 100):
            rows = make_rows(program, num_rows)
            found = exported.call(rows)
            assert_trees_equal(found, expected_outputs(kind, name, rows))


@pytest.mark.parametrize("out_channels", [2, 9])
def test_each_platform_has_its_own_transposed_convolution(out_channels):
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(3, 3, 6, out_channels)).astype(np.float32)
    rows = rng.normal(size=(2, 4, 5, 6)).astype(np.float32)
    function = functools.partial(conv_transpose, kernel=kernel, strides=(2, 2))
    row = jax.ShapeDtypeStruct(rows.shape[1:], rows.dtype)
    program = Program(lambda x: (function(x),), {"rows": row}, ("rows",))
    exported = jax_export.deserialize(bytearray(to_stablehlo(program)))
    for platform in PLATFORMS:
        # Under another order of names, JAX on the CPU is given what that platform would be.
        others = [each for each in PLATFORMS if each not in ("cpu", platform)]
        names = {"cpu": platform, platform: "cpu"} | {other: other for other in others}
        renamed = tuple(names[each] for each in PLATFORMS)
        call = jax.jit(dataclasses.replace(exported, platforms=renamed).call)
        text = call.lower(rows).compile().as_text()
        assert ("lhs_dilate=2x2" in text) == (platform != "cpu"), platform
        np.testing.assert_allclose(call(rows), function(rows), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["flagship", pytest.param("gaussian", marks=pytest.mark.slow)])
def test_what_is_converted_to_onnx_is_the_same_in_plain_operations(kind):
    for name, program in make_programs(kind)[-1].items():
        rows = make_rows(program, 3)
        spec = jax.ShapeDtypeStruct(rows.shape, rows.dtype)
        traced = onnx_programs.trace_for_conversion(program, [spec])
        text = str(traced)
        for unknown in ("platform_index", "reverse=True", "lhs_dilation=(2", "custom_v"):
            assert unknown not in text
        found = jax.jit(core.jaxpr_as_fun(traced))(rows)
        expected = jax.tree.leaves(expected_outputs(kind, name, rows))
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-5)


@needs_onnx
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
def test_onnx_runtime_computes_the_same(kind):
    onnxruntime = pytest.importorskip("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    for name, program in make_programs(kind)[-1].items():
        content = onnx_programs.to_onnx(name, program)
        session = onnxruntime.InferenceSession(content, options)
        for num_rows in (1, 3, 100):
            rows = make_rows(program, num_rows)
            [input_name] = program.inputs
            found = session.run([*program.output_names], {input_name: rows})
            expected = jax.tree.leaves(expected_outputs(kind, name, rows))
            for one, other in zip(found, expected, strict=True):
                np.testing.assert_allclose(one, other, atol=1e-4)


@pytest.mark.parametrize(
    ("convert", "told"),
    [
        (lambda *_: (_ for _ in ()).throw(NotImplementedError("no scan")), "no scan"),
        (lambda *_: b"", "what it makes is off by 0.5"),
    ],
)
def test_what_cannot_be_converted_is_told_in_one_line(monkeypatch, convert, told):
    monkeypatch.setattr(onnx_programs, "_convert", convert)
    monkeypatch.setattr(onnx_programs, "_largest_difference", lambda *_: 0.5)
    monkeypatch.setattr(onnx_programs, "_version", lambda: "0.1")
    error = error_of(onnx_programs.to_onnx, "encoder", make_programs("dense")[-1]["encoder"])
    assert error.startswith("jax2onnx 0.1 cannot convert the encoder: ") and told in error


def test_the_extra_that_the_advice_names_brings_the_package():
    assert any(requirement.startswith(onnx_programs.PACKAGE) for requirement in EXTRAS["onnx"])


@pytest.fixture
def without_onnx(monkeypatch):
    monkeypatch.setattr(onnx_programs, "is_installed", lambda: False)


def test_the_mode_writes_what_its_readme_says(
    copied_run, tmp_path, monkeypatch, capsys, without_onnx
):
    run = RunDirectory.open(copied_run)
    export.export(run, tmp_path / "out")
    folder = tmp_path / "out" / "export"
    told = capsys.readouterr().out
    assert f"wrote {folder}: README.md" in told and "pip install -e '.[onnx]'" in told
    names = {"README.md", "encoder.stablehlo", "decoder.stablehlo", WEIGHTS_NAME}
    assert {path.name for path in folder.iterdir()} == names
    assert not (copied_run / "export").exists()

    text = (folder / "README.md").read_text()
    assert len(text.splitlines()) == 10
    monkeypatch.chdir(folder)
    exec(text.split("```")[1].removeprefix("python"), namespace := {})
    assert namespace["mean"].shape == namespace["log_var"].shape == (3, run.config.latent_size)
    assert namespace["images"].shape == (3, 28, 28, 1)

    [replica] = restore_best(run).replicas
    params, metadata = read_weights(folder / WEIGHTS_NAME, replica.params)
    assert_trees_equal(params, replica.params)
    assert metadata.items() >= {"epoch": str(replica.epoch), "step": str(replica.step)}.items()
    rebuilt = create_vae(**json.loads(metadata["model"]))
    latents = np.ones((1, run.config.latent_size), np.float32)
    decoded = [
        jax.jit(functools.partial(model.apply, method="decode"))(
            {"params": params}, latents, Batch()
        )
        for model in (rebuilt, replica.model)
    ]
    np.testing.assert_array_equal(*decoded)


def test_the_readme_of_a_prior_that_is_not_normal_draws_no_normals(
    copied_run, monkeypatch, without_onnx
):
    add_laplace_prior(monkeypatch)
    # A prior without parameters: those of the run are the model's.
    record = read_json(copied_run / "config.json")
    record["config"]["prior"]["kind"] = "laplace"
    write_json(copied_run / "config.json", record)
    export.export(RunDirectory.open(copied_run))
    code = (copied_run / "export" / "README.md").read_text().split("```")[1]
    assert "normal" not in code
    monkeypatch.chdir(copied_run / "export")
    exec(code.removeprefix("python"), namespace := {})
    [replica] = restore_best(RunDirectory.open(copied_run)).replicas
    assert type(replica.model.prior).__name__ == "Laplace"
    black = Batch(np.zeros((3, 28, 28, 1), np.uint8))
    expected = generation.reconstruct(replica.model, replica.params, black)
    np.testing.assert_allclose(namespace["images"], expected, atol=1e-5)


def test_an_export_is_replaced_as_a_whole_or_not_at_all(copied_run, monkeypatch, without_onnx):
    run, folder = RunDirectory.open(copied_run), copied_run / "export"
    monkeypatch.setattr(export, "to_stablehlo", lambda _: b"1")
    export.export(run)
    (folder / "encoder.onnx").write_bytes(b"1")
    before = sorted(copied_run.iterdir())

    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(export, "to_stablehlo", interrupted)
    with pytest.raises(KeyboardInterrupt):
        export.export(run)
    assert sorted(copied_run.iterdir()) == before
    assert (folder / "decoder.stablehlo").read_bytes() == b"1"

    monkeypatch.setattr(export, "to_stablehlo", lambda _: b"2")
    export.export(run)
    assert (folder / "decoder.stablehlo").read_bytes() == b"2"
    assert not (folder / "encoder.onnx").exists()
    assert sorted(copied_run.iterdir()) == before

    (folder / "notes.txt").write_text("mine")
    assert "holds notes.txt, which is not of an export" in error_of(export.export, run)
    assert (folder / "notes.txt").exists()


def test_each_replica_has_its_own(copied_run, monkeypatch, without_onnx):
    source = RunDirectory.open(copied_run)
    [replica] = restore_best(source).replicas
    replicas = [
        dataclasses.replace(replica, folder=copied_run / f"seed_{seed}", seed=seed)
        for seed in range(2)
    ]
    for each in replicas:
        each.folder.mkdir()
    run = TrainedRun(source, copied_run, replica.epoch, [], replicas)
    monkeypatch.setattr(export, "restore_to_write", lambda *_: run)
    monkeypatch.setattr(export, "to_stablehlo", lambda _: b"")
    export.export(source)
    for each in replicas:
        assert f"seed {each.seed}, " in (each.folder / "export" / "README.md").read_text()


@pytest.mark.slow
def test_a_process_with_jax_alone_decodes_bit_for_bit(copied_run, tmp_path, without_onnx):
    run = RunDirectory.open(copied_run)
    export.export(run)
    [replica] = restore_best(run).replicas
    latents = np.random.default_rng(0).normal(size=(100, run.config.latent_size))
    latents = latents.astype(np.float32)
    folder = copied_run / "export"
    np.save(folder / "latents.npy", latents)
    packages = tmp_path / "packages"
    packages.mkdir()
    for name in _JAX_ALONE:
        place = Path(importlib.import_module(name).__path__[0])
        for path in place.parent.glob(f"{name}[.-]*"):  # its libraries, its metadata
            (packages / path.name).symlink_to(path)
        (packages / name).symlink_to(place)
    command = [sys.executable, "-S", "-c", _FRESH_PROCESS]
    environment = os.environ | {"PYTHONPATH": str(packages)}
    subprocess.run(command, cwd=folder, env=environment, check=True, timeout=120)
    expected = generation.decode(replica.model, replica.params, latents)
    np.testing.assert_array_equal(np.load(folder / "means.npy"), expected)


@functools.cache
def make_flow():
    """A model with a learned prior, its parameters and programs."""
    encoder, decoder, shape, likelihood = next(iter(KINDS.values()))
    prior = {"kind": "coupling_flow", "num_layers": 2, "hidden_size": 4}
    model = create_vae(3, encoder, decoder, shape, likelihood, prior)
    key = jax.random.key(0)
    params = model.init(key, Batch(jnp.zeros((1, *shape))), key)["params"]
    params["prior"] = jax.tree.map(lambda leaf: leaf + 0.1, params["prior"])
    return model, params, programs_of(model, params)


@pytest.mark.slow
def test_a_flow_is_exported_beside_encoder_and_decoder():
    model, params, programs = make_flow()
    assert [*programs] == ["encoder", "decoder", "prior"]
    exported = jax_export.deserialize(bytearray(to_stablehlo(programs["prior"])))
    base = make_rows(programs["prior"], 5)
    latents = exported.call(base)
    assert np.abs(latents - base).max() > 0.05
    np.testing.assert_allclose(latents, generation.from_base(model, params, base), rtol=1e-5)


@needs_onnx
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_onnx_runtime_computes_the_flow():
    onnxruntime = pytest.importorskip("onnxruntime")
    model, params, programs = make_flow()
    session = onnxruntime.InferenceSession(onnx_programs.to_onnx("prior", programs["prior"]))
    base = make_rows(programs["prior"], 5)
    [latents] = session.run(["latents"], {"base": base})
    np.testing.assert_allclose(latents, generation.from_base(model, params, base), atol=1e-4)
