"""Loading a data set by its name."""

from vae_jax.datasets import embedded
from vae_jax.datasets.binarization import BINARIZATIONS, binarize_for_evaluation
from vae_jax.datasets.structs import Dataset, Split, sha256_of
from vae_jax.runtime.errors import UserError, check_choice
from vae_jax.runtime.files import local_path

NAMES = ("mnist", "fashion_mnist", "kmnist", "mnist_5k")


def load(
    name: str = "mnist",
    data_dir: str | None = None,
    manual_dir: str | None = None,
    validation_size: int = 5_000,
    binarization: str = "none",
) -> Dataset:
    """Loads a data set as uint8 arrays, images `<uint8>[n, height, width]` and labels.

    The validation split is the first `validation_size` official training images, the training
    split the rest. "mnist_5k" has splits of its own, of 4,000, 500 and 500 images, and ignores
    `validation_size` and both folders.

    Args:
      name: one of `NAMES`.
      data_dir: where prepared data lie or are put; None or "" for the default of TensorFlow
        Datasets (`TFDS_DATA_DIR`, else `~/tensorflow_datasets`).
      manual_dir: a folder that holds the four official `.gz` files; None or "" to download
        them. Read only where `data_dir` holds no prepared data yet.
      validation_size: the number of images held out of the training images.
      binarization: "none", or "dynamic": the validation and test images are drawn black and
        white here, once and always alike; the training images stay gray, for whoever trains
        to draw anew at each use.

    Raises:
      UserError: an argument is not allowed, or the data cannot be had, read or written.
    """
    check_choice("data.name", name, NAMES)
    check_choice("data.binarization", binarization, BINARIZATIONS)
    if name == "mnist_5k":
        splits = embedded.load()
    else:
        splits = _load_official(name, data_dir, manual_dir, validation_size)
    sha256 = sha256_of(splits["train"], splits["validation"], splits["test"])
    if binarization == "dynamic":
        for split_name in ("validation", "test"):
            split = splits[split_name]
            images = binarize_for_evaluation(split.images, split_name)
            splits[split_name] = Split(images=images, labels=split.labels)
    return Dataset(name=name, sha256=sha256, **splits)


def _load_official(
    name: str, data_dir: str | None, manual_dir: str | None, validation_size: int
) -> dict[str, Split]:
    """Loads the splits "train", "validation" and "test" of an official data set."""
    # Here and not above: this imports TensorFlow Datasets, which takes half a second.
    from vae_jax.datasets import prepared

    splits = prepared.load(
        name,
        data_dir=str(local_path("data.data_dir", data_dir)) if data_dir else None,
        manual_dir=str(local_path("data.manual_dir", manual_dir)) if manual_dir else None,
    )
    train = splits["train"]
    if not 1 <= validation_size < len(train):
        raise UserError(
            f"data.validation_size is {validation_size}, must be from 1 to {len(train) - 1}: "
            f"{name} has {len(train)} training images"
        )
    return {
        "train": train[validation_size:],
        "validation": train[:validation_size],
        "test": splits["test"],
    }
