"""The same model in Keras on TensorFlow: as a graph, and compiled by XLA."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from common import decoder_sizes
from keras import layers

_IMAGE_SIZE = 28


def _encoder(config: dict[str, Any]) -> keras.Model:
    images = keras.Input((_IMAGE_SIZE, _IMAGE_SIZE))
    outputs = layers.LSTM(config["encoder"]["hidden_size"], return_sequences=True)(images)
    features = layers.Flatten()(outputs)
    heads = [layers.Dense(config["latent_size"])(features) for _ in range(2)]
    return keras.Model(images, heads)


def _decoder(config: dict[str, Any]) -> keras.Model:
    latents = keras.Input((config["latent_size"],))
    decoder, x = config["decoder"], latents
    dense_sizes, grid = decoder_sizes(decoder, _IMAGE_SIZE)
    for size in dense_sizes:
        x = layers.Dense(size, activation="relu")(x)
    x = layers.Reshape(grid)(x)
    for filters, stride in zip(decoder["filters"], decoder["strides"], strict=True):
        x = layers.Conv2DTranspose(filters, 3, stride, padding="same", activation="relu")(x)
    logits = layers.Dense(_IMAGE_SIZE**2)(layers.Flatten()(x))
    return keras.Model(latents, logits)


class Contender:
    """Trains the model of a configuration; see `benchmarks/worker.py` for what each does."""

    def __init__(self, variant: str, config: dict[str, Any], images: np.ndarray):
        keras.utils.set_random_seed(config["seed"])
        self._batch_size = config["train"]["batch_size"]
        self._pixels = tf.constant(images[..., 0].astype(np.float32) / 255)
        self._encode, self._decode = _encoder(config), _decoder(config)
        self._variables = self._encode.trainable_variables + self._decode.trainable_variables
        self._optimizer = keras.optimizers.Adam(config["train"]["learning_rate"])
        self._optimizer.build(self._variables)
        self._step = tf.function(self._eager_step, jit_compile=variant == "XLA")
        self.num_parameters = sum(int(np.prod(v.shape)) for v in self._variables)
        gpus = tf.config.list_physical_devices("GPU")
        self.device = gpus[0].name if gpus else "cpu"
        self.version = f"Keras {keras.__version__} on TensorFlow {tf.__version__}"

    def _mean_loss(self, pixels: tf.Tensor) -> tf.Tensor:
        mean, log_var = self._encode(pixels, training=True)
        latents = mean + tf.exp(0.5 * log_var) * tf.random.normal(tf.shape(mean))
        logits = self._decode(latents, training=True)
        targets = tf.reshape(pixels, (-1, _IMAGE_SIZE**2))
        cross_entropy = tf.nn.sigmoid_cross_entropy_with_logits(labels=targets, logits=logits)
        kl = -0.5 * tf.reduce_sum(1 + log_var - tf.square(mean) - tf.exp(log_var))
        return (tf.reduce_sum(cross_entropy) + kl) / self._batch_size

    def _eager_step(self, pixels: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            loss = self._mean_loss(pixels)
        gradients = tape.gradient(loss, self._variables)
        self._optimizer.apply_gradients(zip(gradients, self._variables, strict=True))
        return loss

    def _batch(self, index: int) -> tf.Tensor:
        return self._pixels[index * self._batch_size : (index + 1) * self._batch_size]

    def first_loss(self) -> float:
        """Takes the first step; returns its loss, in nats per image."""
        return float(self._step(self._batch(0)))

    def run(self, num_steps: int) -> None:
        """Takes steps over the first batches; returns when the last is done."""
        for index in range(num_steps):
            loss = self._step(self._batch(index))
        float(loss)
