"""`configs/baseline.py` as one would write it in Keras: `compile`, `fit`, samples.

Started by `train_run.py`.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import run_io
from keras import layers, ops

BATCH_SIZE = 100
LEARNING_RATE = 0.0005
LATENT_SIZE = 64


class Sampling(layers.Layer):
    """Draws from the posterior and adds its KL to the loss."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.seed_generator = keras.random.SeedGenerator(0)

    def call(self, inputs):
        """Returns latents, of mean and log-variance."""
        mean, log_var = inputs
        kl = -0.5 * ops.sum(1 + log_var - ops.square(mean) - ops.exp(log_var), axis=1)
        self.add_loss(ops.mean(kl))
        noise = keras.random.normal(ops.shape(mean), seed=self.seed_generator)
        return mean + ops.exp(0.5 * log_var) * noise


def build_encoder():
    """Builds an LSTM over an image's rows, and a sample of the posterior."""
    images = keras.Input((28, 28))
    features = layers.Flatten()(layers.LSTM(64, return_sequences=True)(images))
    mean = layers.Dense(LATENT_SIZE)(features)
    log_var = layers.Dense(LATENT_SIZE)(features)
    return keras.Model(images, Sampling()([mean, log_var]))


def build_decoder():
    """Builds transposed convolutions from latents to logits."""
    return keras.Sequential(
        [
            keras.Input((LATENT_SIZE,)),
            layers.Dense(196, activation="relu"),
            layers.Dense(14 * 14 * 2, activation="relu"),
            layers.Reshape((14, 14, 2)),
            layers.Conv2DTranspose(32, 3, padding="same", activation="relu"),
            layers.Conv2DTranspose(16, 3, padding="same", activation="relu"),
            layers.Conv2DTranspose(16, 3, strides=2, padding="same", activation="relu"),
            layers.Flatten(),
            layers.Dense(28 * 28),
            layers.Reshape((28, 28)),
        ]
    )


def reconstruction_loss(images, logits):
    """Computes the cross-entropy of each image, summed over its pixels."""
    cross_entropy = ops.binary_crossentropy(images, logits, from_logits=True)
    return ops.sum(cross_entropy, axis=(1, 2))


class Report(keras.callbacks.Callback):
    """Prints what `train_run.py` reads the time by."""

    def on_train_begin(self, logs=None):
        """Says that the first step begins."""
        print("first step begins", flush=True)

    def on_train_batch_end(self, batch, logs=None):
        """Says that the first step is done."""
        if batch == 0:
            print("first step done", flush=True)

    def on_epoch_end(self, epoch, logs=None):
        """Prints the losses."""
        print(
            f"epoch {epoch + 1}/{self.params['epochs']}: train {logs['loss']:.2f}, "
            f"validation {logs['val_loss']:.2f}",
            flush=True,
        )


def main():
    """Trains, saves the weights and draws samples."""
    arguments = run_io.parse_arguments(__doc__)
    keras.utils.set_random_seed(0)
    images, held_out = run_io.load_images(arguments.data, arguments.validation_size)
    encoder, decoder = build_encoder(), build_decoder()
    inputs = keras.Input((28, 28))
    model = keras.Model(inputs, decoder(encoder(inputs)))
    model.compile(optimizer=keras.optimizers.Adam(LEARNING_RATE), loss=reconstruction_loss)
    print(f"parameters {sum(int(np.prod(each.shape)) for each in model.trainable_weights)}")
    model.fit(
        images,
        images,
        batch_size=BATCH_SIZE,
        epochs=arguments.epochs,
        validation_data=(held_out, held_out),
        validation_batch_size=BATCH_SIZE,
        verbose=0,
        callbacks=[Report()],
    )
    model.save_weights(arguments.output / "vae.weights.h5")
    logits = decoder.predict(np.random.normal(size=(100, LATENT_SIZE)), verbose=0)
    run_io.save_grid(arguments.output / "samples.png", 1 / (1 + np.exp(-logits)))


if __name__ == "__main__":
    main()
