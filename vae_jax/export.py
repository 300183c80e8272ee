"""Mode `export`: a trained model for use without this package."""

import json
import os
from pathlib import Path

import jax
import ml_collections

from vae_jax.evaluation import onnx_programs
from vae_jax.evaluation.programs import Program, programs_of, to_stablehlo
from vae_jax.evaluation.trained_run import Replica, restore_to_write
from vae_jax.modes import Mode, run_flags
from vae_jax.runtime.errors import UserError
from vae_jax.runtime.files import scratch_folder, write_atomically
from vae_jax.training.run_directory import RunDirectory
from vae_jax.training.weights import WEIGHTS_NAME, write_weights

_FOLDER = "export"
_README = "README.md"
_SUFFIXES = (".stablehlo", ".onnx")


def export(
    source: RunDirectory,
    output: str | os.PathLike[str] | None = None,
) -> None:
    """Writes encoder, decoder and a flow as StableHLO and ONNX, and the parameters, to `export/`.

    An earlier export there is replaced, as a whole. ONNX needs the package jax2onnx.

    Args:
      source: the run directory.
      output: the folder that `export/` is made in; the run directory if None.

    Raises:
      UserError: there is no run; other files are in `export/`; jax2onnx cannot convert the model.
    """
    run = restore_to_write(source, output, [_FOLDER])
    for replica in run.replicas:
        _check_replaceable(replica.folder / _FOLDER)
    for replica in run.replicas:
        folder = replica.folder / _FOLDER
        with scratch_folder(replica.folder, ".exporting.") as scratch:
            made = scratch / _FOLDER
            made.mkdir()
            _write_export(made, replica, run.config)
            _replace(made, folder, scratch)
        print(f"wrote {folder}: {', '.join(sorted(map(_name_and_size, folder.iterdir())))}")
    if not onnx_programs.is_installed():
        print(f"no ONNX, which needs {onnx_programs.PACKAGE}: pip install -e '.[onnx]'")


def _name_and_size(path: Path) -> str:
    return f"{path.name} ({path.stat().st_size / 1e3:,.0f} kB)"


def _replace(made: Path, folder: Path, scratch: Path) -> None:
    """Puts a whole export in the place of an earlier one, if any, which goes with the scratch."""
    if folder.exists():
        folder.rename(scratch / "earlier")
    made.rename(folder)


def _check_replaceable(folder: Path) -> None:
    """Raises UserError where the folder holds what no export writes: it would be lost."""
    if not folder.is_dir():
        return
    foreign = sorted(path.name for path in folder.iterdir() if not _is_exported(path))
    if foreign:
        raise UserError(
            f"{folder}: holds {foreign[0]}, which is not of an export, and would be lost with the "
            "export that is replaced; move it to another folder"
        )


def _is_exported(path: Path) -> bool:
    return path.name in (_README, WEIGHTS_NAME) or path.suffix in _SUFFIXES


def _write_export(folder: Path, replica: Replica, config: ml_collections.ConfigDict) -> None:
    programs = programs_of(replica.model, replica.params)
    for name, program in programs.items():
        write_atomically(folder / f"{name}.stablehlo", to_stablehlo(program))
        if onnx_programs.is_installed():
            content = onnx_programs.to_onnx(name, program)
            write_atomically(folder / f"{name}.onnx", content)
    write_weights(folder / WEIGHTS_NAME, replica.params, _metadata(replica, config))
    write_atomically(folder / _README, _readme(replica, programs))


def _metadata(replica: Replica, config: ml_collections.ConfigDict) -> dict[str, str]:
    """Returns what a program needs beside the parameters; `model` is for `create_vae`."""
    model = {
        "latent_size": config.latent_size,
        "encoder": config.encoder.to_dict(),
        "decoder": config.decoder.to_dict(),
        "image_shape": replica.model.image_shape,
        "likelihood": config.likelihood.kind,
        "prior": config.prior.to_dict(),
        "num_classes": replica.model.num_classes,
    }
    numbers = {"epoch": replica.epoch, "step": replica.step, "seed": replica.seed}
    return {name: str(number) for name, number in numbers.items()} | {"model": json.dumps(model)}


def _readme(replica: Replica, programs: dict[str, Program]) -> str:
    """Returns ten lines that say what is there and run the programs by JAX alone."""
    image, *known = programs["encoder"].inputs.values()
    latent, *_ = programs["decoder"].inputs.values()
    labels = ", jnp.zeros(3, jnp.int32)" if known else ""  # of the images, then of as many latents
    names, prior = ", ".join(programs), replica.model.prior
    drawn = f"random.normal(random.key(0), {(3, *latent.shape)})"
    if "prior" in programs:
        drawn = f"prior.call({drawn}{labels})"
    elif not prior.base_is_standard_normal:
        drawn = "mean"
    input_names = " and ".join(f"`{name}`" for each in programs.values() for name in each.inputs)
    return f"""\
# A variational autoencoder: seed {replica.seed}, epoch {replica.epoch}
In this folder, with JAX {jax.__version__} or of the half year after it (`pip install jax flatbuffers`), on CPU, CUDA or TPU:
```python
from pathlib import Path
from jax import export, numpy as jnp, random
{names} = (export.deserialize(bytearray(Path(f"{{name}}.stablehlo").read_bytes())) for name in {tuple(programs)})
mean, log_var = encoder.call(jnp.zeros({(3, *image.shape)}){labels})  # of q(z | x), for any number of images, intensities in [0, 1]
images = decoder.call({drawn}{labels})  # means of the intensities
```
The parameters alone are in `weights.safetensors`; ONNX files, where there are any, take {input_names}.
"""  # noqa: E501


MODE = Mode(export, flags=run_flags())
