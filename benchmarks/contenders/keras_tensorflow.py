"""The same model in Keras on TensorFlow: as a graph, and compiled by XLA."""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from common import IMAGE_SIZE, decoder_sizes
from keras import layers


def _encoder(latent_size: int, config: dict[str, Any]) -> keras.Model:
    images = x = keras.Input((IMAGE_SIZE, IMAGE_SIZE))
    for _ in range(config["num_layers"]):
        lstm = layers.LSTM(config["hidden_size"], return_sequences=True)
        x = layers.Bidirectional(lstm)(x) if config["bidirectional"] else lstm(x)
    x = layers.Flatten()(x)
    for size in config["mlp_sizes"]:
        x = layers.Dense(size, activation=config["activation"])(x)
    return keras.Model(images, [layers.Dense(latent_size)(x) for _ in range(2)])


def _residual_block(x: keras.KerasTensor, activation: str) -> keras.KerasTensor:
    channels = x.shape[-1]
    y = layers.Conv2D(channels, 3, padding="same")(layers.Activation(activation)(x))
    y = layers.Activation(activation)(y)
    y = layers.Conv2D(channels, 3, padding="same", kernel_initializer="zeros")(y)
    return layers.Add()([x, y])


def _decoder(latent_size: int, config: dict[str, Any]) -> keras.Model:
    latents = x = keras.Input((latent_size,))
    dense_sizes, grid = decoder_sizes(config)
    activation, filters = config["activation"], config["filters"]
    for size in dense_sizes:
        x = layers.Dense(size, activation=activation)(x)
    x = layers.Reshape(grid)(x)
    blocks = config["residual_blocks"] or (0,) * len(filters)
    for channels, stride, num_blocks in zip(filters, config["strides"], blocks, strict=True):
        x = layers.Conv2DTranspose(channels, 3, stride, padding="same")(x)
        for _ in range(num_blocks):
            x = _residual_block(x, activation)
        x = layers.Activation(activation)(x)
    if config["head"] == "conv":
        return keras.Model(latents, layers.Flatten()(layers.Conv2D(1, 3, padding="same")(x)))
    return keras.Model(latents, layers.Dense(IMAGE_SIZE**2)(layers.Flatten()(x)))


def _optimizer(train: dict[str, Any]) -> keras.optimizers.Optimizer:
    """Makes Adam, with the kernels' decay and the moving average where there are such."""
    decay = train["ema_decay"]
    average = {"use_ema": True, "ema_momentum": decay} if decay else {}
    if not train["weight_decay"]:
        return keras.optimizers.Adam(train["learning_rate"], **average)
    optimizer = keras.optimizers.AdamW(
        train["learning_rate"], weight_decay=train["weight_decay"], **average
    )
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    return optimizer


class Contender:
    """Trains the model of a configuration; see `benchmarks/worker.py` for what each does."""

    def __init__(self, variant: str, config: dict[str, Any], arrays: Mapping[str, np.ndarray]):
        keras.utils.set_random_seed(config["seed"])
        self._batch_size = config["train"]["batch_size"]
        self._binarize = config["data"]["binarization"] == "dynamic"
        self._pixels = tf.constant(arrays["images"][..., 0].astype(np.float32) / 255)
        self._encode = _encoder(config["latent_size"], config["encoder"])
        self._decode = _decoder(config["latent_size"], config["decoder"])
        self._variables = self._encode.trainable_variables + self._decode.trainable_variables
        self._optimizer = _optimizer(config["train"])
        self._optimizer.build(self._variables)
        self._step = tf.function(self._eager_step, jit_compile=variant == "XLA")
        gpus = tf.config.list_physical_devices("GPU")
        self.device = gpus[0].name if gpus else "cpu"
        self.version = f"Keras {keras.__version__} on TensorFlow {tf.__version__}"

    def _mean_loss(self, pixels: tf.Tensor) -> tf.Tensor:
        mean, log_var = self._encode(pixels, training=True)
        latents = mean + tf.exp(0.5 * log_var) * tf.random.normal(tf.shape(mean))
        logits = self._decode(latents, training=True)
        targets = tf.reshape(pixels, (-1, IMAGE_SIZE**2))
        cross_entropy = tf.nn.sigmoid_cross_entropy_with_logits(labels=targets, logits=logits)
        kl = -0.5 * tf.reduce_sum(1 + log_var - tf.square(mean) - tf.exp(log_var))
        return (tf.reduce_sum(cross_entropy) + kl) / self._batch_size

    def _eager_step(self, pixels: tf.Tensor) -> tf.Tensor:
        if self._binarize:
            pixels = tf.cast(tf.random.uniform(tf.shape(pixels)) < pixels, pixels.dtype)
        with tf.GradientTape() as tape:
            loss = self._mean_loss(pixels)
        gradients = tape.gradient(loss, self._variables)
        self._optimizer.apply_gradients(zip(gradients, self._variables, strict=True))
        return loss

    def _batch(self, index: int) -> tf.Tensor:
        return self._pixels[index * self._batch_size : (index + 1) * self._batch_size]

    def facts(self) -> dict[str, Any]:
        """Takes the first step; returns its loss, in nats per image, and the model's size."""
        loss = float(self._step(self._batch(0)))
        size = sum(int(np.prod(v.shape)) for v in self._variables)
        return {"first_loss": loss, "num_parameters": size}

    def run(self, num_steps: int) -> None:
        """Takes steps over the first batches; returns when the last is done."""
        for index in range(num_steps):
            loss = self._step(self._batch(index))
        float(loss)
