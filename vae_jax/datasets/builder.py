"""A TensorFlow Datasets builder of MNIST and its relatives that needs no TensorFlow."""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core.download import checksums

from vae_jax.datasets import idx, official_files
from vae_jax.datasets.structs import Split, sha256_of

# A record holds a block of images: decoding 70,000 records of one image each takes TensorFlow
# Datasets 100 us a record, 7 s at every start. In blocks, a start reads them in 0.2 s.
IMAGES_PER_RECORD = 1_000


class VaeJaxMnist(tfds.core.GeneratorBasedBuilder):
    """MNIST, Fashion-MNIST and KMNIST, one builder configuration each.

    An example is a block of up to 1,000 consecutive images, in the official order: `image`,
    `<uint8>[block, 28, 28]`, and `label`, `<uint8>[block]`. The data lie in
    `<data_dir>/vae_jax_mnist/<configuration>/<version>`, apart from those of the builders of
    TensorFlow Datasets, which are named `mnist`, `fashion_mnist` and `kmnist`. The metadata hold
    each split's SHA-256, by which later damage is told.
    """

    name = "vae_jax_mnist"
    VERSION = tfds.core.Version("1.1.0")  # 1.0.0 recorded no SHA-256
    BUILDER_CONFIGS: ClassVar = [
        tfds.core.BuilderConfig(name=name) for name in ("mnist", "fashion_mnist", "kmnist")
    ]
    official: Mapping[str, Split] | None = None  # splits to prepare; None to download the files

    @property
    def url_infos(self) -> dict[str, checksums.UrlInfo]:
        """The registered files of the configuration, by address."""
        return official_files.registered(self.builder_config.name)

    def _info(self) -> tfds.core.DatasetInfo:
        # Encoding.BYTES: without it each pixel is stored as a 64-bit integer. Tensor and not
        # Image: Image needs TensorFlow to encode.
        image = tfds.features.Tensor(
            shape=(None, *idx.IMAGE_SHAPE), dtype=np.uint8, encoding=tfds.features.Encoding.BYTES
        )
        label = tfds.features.Tensor(
            shape=(None,), dtype=np.uint8, encoding=tfds.features.Encoding.BYTES
        )
        return tfds.core.DatasetInfo(
            builder=self,
            description="28x28 gray images in ten classes, in blocks, in the official order.",
            features=tfds.features.FeaturesDict({"image": image, "label": label}),
            metadata=tfds.core.MetadataDict(),  # filled when the files have been read
            disable_shuffling=True,  # the validation split is the first training images
        )

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
        splits = self.official
        if splits is None:
            urls = {info.filename: url for url, info in self.url_infos.items()}
            splits = official_files.read(self.builder_config.name, dl_manager.download(urls))
        self.info.metadata.update({name: sha256_of(split) for name, split in splits.items()})
        return {name: self._generate_examples(split) for name, split in splits.items()}

    def _generate_examples(self, split: Split) -> Iterator[tuple[int, dict[str, Any]]]:
        for start in range(0, len(split), IMAGES_PER_RECORD):
            block = split[start : start + IMAGES_PER_RECORD]
            yield start, {"image": block.images[..., 0], "label": block.labels}
