"""Mode `export`: a trained model for use without this package."""

import json
from pathlib import Path

import jax
import ml_collections

from vae_jax.evaluation import onnx_programs
from vae_jax.evaluation.programs import Program, programs_of, to_stablehlo
from vae_jax.evaluation.trained_run import Replica, TrainedRun
from vae_jax.modes import Mode, run_flags, run_mode
from vae_jax.runtime.errors import UserError
from vae_jax.runtime.files import scratch_folder, write_atomically
from vae_jax.training.weights import WEIGHTS_NAME, write_weights

_FOLDER = "export"
_README = "README.md"
_SUFFIXES = (".stablehlo", ".onnx")


@run_mode(_FOLDER)
def export(run: TrainedRun) -> None:
    """Writes encoder, decoder and a flow as StableHLO and ONNX, and the parameters, to `export/`.

    An earlier export is replaced, and only by a complete one. ONNX needs the package jax2onnx.

    Raises:
      UserError: other files are in `export/`, or jax2onnx cannot convert the model.
    """
    for replica in run.replicas:
        for path in replica.folder.glob(f"{_FOLDER}/*"):
            if path.name not in (_README, WEIGHTS_NAME) and path.suffix not in _SUFFIXES:
                raise UserError(f"{path}: is not part of an export, which replaces the folder")
    for replica in run.replicas:
        folder = replica.folder / _FOLDER
        with scratch_folder(replica.folder, ".exporting.") as scratch:
            (scratch / _FOLDER).mkdir()
            _write_export(scratch / _FOLDER, replica, run.config)
            if folder.exists():
                folder.rename(scratch / "earlier")
            (scratch / _FOLDER).rename(folder)
        sizes = {path.name: path.stat().st_size / 1e3 for path in sorted(folder.iterdir())}
        print(
            f"wrote {folder}: {', '.join(f'{name} ({kb:,.0f} kB)' for name, kb in sizes.items())}"
        )
    if not onnx_programs.is_installed():
        print(f"no ONNX, which needs {onnx_programs.PACKAGE}: pip install -e '.[onnx]'")


def _write_export(folder: Path, replica: Replica, config: ml_collections.ConfigDict) -> None:
    programs = programs_of(*replica.model_and_params)
    for name, program in programs.items():
        write_atomically(folder / f"{name}.stablehlo", to_stablehlo(program))
        if onnx_programs.is_installed():
            content = onnx_programs.to_onnx(name, program)
            write_atomically(folder / f"{name}.onnx", content)
    model = {  # the arguments of `create_vae`
        "latent_size": config.latent_size,
        "encoder": config.encoder.to_dict(),
        "decoder": config.decoder.to_dict(),
        "image_shape": replica.model.image_shape,
        "likelihood": config.likelihood.kind,
        "prior": config.prior.to_dict(),
        "num_classes": replica.model.num_classes,
    }
    metadata = {name: str(getattr(replica, name)) for name in ("epoch", "step", "seed")}
    metadata["model"] = json.dumps(model)
    write_weights(folder / WEIGHTS_NAME, replica.params, metadata)
    write_atomically(folder / _README, _readme(replica, programs))


def _readme(replica: Replica, programs: dict[str, Program]) -> str:
    """Returns ten lines that list the files and run the programs by JAX alone."""
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
The parameters alone are in `weights.safetensors`; ONNX files, if present, take {input_names}.
"""  # noqa: E501


MODE = Mode(export, flags=run_flags())
