"""Mode `export`: a trained model for use without this package."""

import json
from pathlib import Path

import jax
import ml_collections

from vae_jax.evaluation import programs
from vae_jax.evaluation.trained_run import Replica, TrainedRun
from vae_jax.modes import Mode, run_flags, run_mode
from vae_jax.runtime.files import write_atomically
from vae_jax.training.weights import WEIGHTS_NAME, write_weights

_FOLDER = "export"


@run_mode(_FOLDER)
def export(run: TrainedRun) -> None:
    """Writes encoder, decoder and a flow as StableHLO and ONNX, and the parameters, to `export/`.

    The files of an earlier export are replaced. ONNX needs the package jax2onnx.

    Raises:
      UserError: jax2onnx cannot convert the model.
    """
    for replica in run.replicas:
        folder = replica.folder / _FOLDER
        folder.mkdir(exist_ok=True)
        for earlier in (*folder.glob("*.stablehlo"), *folder.glob("*.onnx")):
            earlier.unlink()
        _write_export(folder, replica, run.config)
        print(f"wrote {folder}: {', '.join(sorted(path.name for path in folder.iterdir()))}")
    if not programs.has_onnx():
        print("no ONNX, which needs jax2onnx: pip install -e '.[onnx]'")


def _write_export(folder: Path, replica: Replica, config: ml_collections.ConfigDict) -> None:
    by_name = programs.programs_of(*replica.model_and_params)
    for name, program in by_name.items():
        write_atomically(folder / f"{name}.stablehlo", programs.to_stablehlo(program))
        if programs.has_onnx():
            write_atomically(folder / f"{name}.onnx", programs.to_onnx(name, program))
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
    write_atomically(folder / "README.md", _readme(replica, by_name))


def _readme(replica: Replica, by_name: dict[str, programs.Program]) -> str:
    """Returns a page whose code runs the encoder and the decoder by JAX alone."""
    image, *known = by_name["encoder"].inputs.values()
    labels = ", jnp.zeros(3, jnp.int32)" if known else ""
    return f"""\
# A variational autoencoder: seed {replica.seed}, epoch {replica.epoch}
In this folder, with JAX {jax.__version__} or of the half year after it (`pip install jax flatbuffers`), on CPU, CUDA or TPU:
```python
from pathlib import Path
from jax import export, numpy as jnp
encoder, decoder = (export.deserialize(bytearray(Path(f"{{name}}.stablehlo").read_bytes())) for name in ("encoder", "decoder"))
mean, log_var = encoder.call(jnp.zeros({(3, *image.shape[1:])}){labels})  # of q(z | x), for any number of images, intensities in [0, 1]
images = decoder.call(mean{labels})  # means of the intensities
```
docs/python.md of vae_jax describes the other files.
"""  # noqa: E501


MODE = Mode(export, flags=run_flags())
