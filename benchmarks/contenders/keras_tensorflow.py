"""The model of a configuration in Keras on TensorFlow: training steps and whole runs.

`train_run.py` starts this file as a program.
"""

import os
from collections.abc import Mapping
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import common
import keras
import numpy as np
import tensorflow as tf
from keras import layers


def _encoder(latent_size: int, config: dict[str, Any]) -> keras.Model:
    images = x = keras.Input((28, 28))
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
    dense_sizes, grid = common.decoder_sizes(config)
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
    return keras.Model(latents, layers.Dense(28**2)(layers.Flatten()(x)))


def _optimizer(train: dict[str, Any]) -> keras.optimizers.Optimizer:
    """Makes Adam, with the kernels' decay and the moving average where there are such."""
    optimizer = keras.optimizers.Adam(
        train["learning_rate"],
        weight_decay=train["weight_decay"] or None,
        use_ema=train["ema_decay"] > 0,
        ema_momentum=train["ema_decay"],
    )
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    return optimizer


class Sampling(layers.Layer):
    """Draws from the posterior and adds its KL to the loss."""

    def call(self, inputs):
        """Returns latents, of mean and log-variance."""
        mean, log_var = inputs
        kl = -0.5 * tf.reduce_sum(1 + log_var - tf.square(mean) - tf.exp(log_var), axis=1)
        self.add_loss(tf.reduce_mean(kl))
        return mean + tf.exp(0.5 * log_var) * tf.random.normal(tf.shape(mean))


def _vae(config: dict[str, Any]) -> keras.Model:
    latent_size, images = config["latent_size"], keras.Input((28, 28))
    encoder = _encoder(latent_size, config["encoder"])
    decoder = _decoder(latent_size, config["decoder"])
    return keras.Model(images, decoder(Sampling()(encoder(images))))


def _reconstruction_loss(images: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    targets = tf.reshape(images, (-1, 28**2))
    cross_entropy = tf.nn.sigmoid_cross_entropy_with_logits(labels=targets, logits=logits)
    return tf.reduce_sum(cross_entropy, axis=1)


class Trainer:
    """Takes training steps, compiled by XLA."""

    def __init__(self, config: dict[str, Any], arrays: Mapping[str, np.ndarray]):
        self._batch_size = config["train"]["batch_size"]
        self._binarize = config["data"]["binarization"] == "dynamic"
        self._pixels = tf.constant(arrays["images"][..., 0].astype(np.float32) / 255)
        self._model = _vae(config)
        self._variables = self._model.trainable_variables
        self._optimizer = _optimizer(config["train"])
        self._optimizer.build(self._variables)
        self._step = tf.function(self._eager_step, jit_compile=True)

    def _eager_step(self, pixels: tf.Tensor) -> tf.Tensor:
        if self._binarize:
            pixels = tf.cast(tf.random.uniform(tf.shape(pixels)) < pixels, pixels.dtype)
        with tf.GradientTape() as tape:
            losses = _reconstruction_loss(pixels, self._model(pixels, training=True))
            loss = tf.reduce_mean(losses) + tf.add_n(self._model.losses)
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


def describe() -> str:
    """Names the libraries and the device."""
    gpus = tf.config.list_physical_devices("GPU")
    device = gpus[0].name if gpus else "cpu"
    return f"Keras {keras.__version__} on TensorFlow {tf.__version__}, {device}"


def create(variant: str, config: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> Trainer:
    """Makes a contender of `train_step.py`."""
    keras.utils.set_random_seed(config["seed"])
    return Trainer(config, arrays)


def main() -> None:
    """Trains with `compile` and `fit`; saves the weights and samples."""
    arguments = common.parse_run_arguments()
    config = arguments.config
    keras.utils.set_random_seed(0)
    images = common.read_images(arguments.data).astype(np.float32) / 255
    held_out, images = np.split(images, [common.VALIDATION_SIZE])
    model = _vae(config)
    model.compile(optimizer=_optimizer(config["train"]), loss=_reconstruction_loss)
    # The lines by which `train_run.py` reads the time; it takes the first of each.
    report = keras.callbacks.LambdaCallback(
        on_train_begin=lambda logs: print("first step begins", flush=True),
        on_train_batch_end=lambda batch, logs: batch or print("first step done", flush=True),
        on_epoch_end=lambda epoch, logs: print(f"epoch {epoch + 1}/: {logs}", flush=True),
    )
    model.fit(
        images,
        images,
        batch_size=config["train"]["batch_size"],
        epochs=common.NUM_EPOCHS,
        validation_data=(held_out, held_out),
        verbose=0,
        callbacks=[report],
    )
    model.save_weights(arguments.output / "vae.weights.h5")
    logits = model.layers[-1].predict(
        np.random.normal(size=(100, config["latent_size"])), verbose=0
    )
    np.save(arguments.output / "samples.npy", 1 / (1 + np.exp(-logits)))


if __name__ == "__main__":
    main()
