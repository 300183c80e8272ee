"""Every field of a configuration, its default and its allowed values.

The defaults are the baseline of the reference configurations; the other configurations change a
few fields. The command line can set any field: `--config.train.num_epochs=5`.
"""

import ml_collections
from ml_collections import config_dict


def get_config() -> ml_collections.ConfigDict:
    """Returns the default configuration."""
    config = ml_collections.ConfigDict()
    config.seed = 0  # makes the run: parameters, data order, samples, dropout
    config.latent_size = 64
    config.initialization = "flax"  # flax or tensorflow (version 1's), of the parameters
    config.output_bias_init = "zeros"  # zeros or data_mean: where the logits' biases begin

    config.data = ml_collections.ConfigDict()
    config.data.name = "mnist"  # mnist, fashion_mnist, kmnist, mnist_5k or images
    config.data.data_dir = config_dict.placeholder(str)  # prepared data; TFDS's own if None
    config.data.manual_dir = config_dict.placeholder(str)  # where the four files already lie
    config.data.path = config_dict.placeholder(str)  # images: a folder, an .npz or an .npy
    config.data.image_size = ()  # images: (height, width) they are brought to; () as they are
    config.data.channels = 0  # images: 1 or 3; 0 as they are
    config.data.levels = 0  # images: values run from 0 to levels - 1; 0 for their type's range
    config.data.skip_damaged = False  # images: leave out files that cannot be read
    config.data.validation_size = 5000  # taken from the training images; mnist_5k has its own
    config.data.test_size = 5000  # images: taken from them too, unless they have their own
    config.data.binarization = "none"  # none (gray pixels) or dynamic
    # Where all training images lie: true; false streams them; auto decides by the free memory.
    config.data.on_device = "auto"

    config.prior = ml_collections.ConfigDict()
    config.prior.kind = "standard_normal"  # or coupling_flow, mixture or vamp, which are learned
    config.prior.num_layers = 10  # coupling_flow
    config.prior.hidden_size = 256  # coupling_flow
    config.prior.num_components = 500  # mixture, vamp
    config.prior.pseudo_inputs = "learned"  # vamp: or data, for training images, which stay

    config.likelihood = ml_collections.ConfigDict()
    # Of the pixels: bernoulli, continuous_bernoulli, gaussian or discretized_logistic.
    config.likelihood.kind = "bernoulli"

    config.condition = ml_collections.ConfigDict()
    config.condition.kind = "none"  # or label: encoder and decoder are given the image's class

    config.encoder = ml_collections.ConfigDict()
    config.encoder.kind = "lstm"  # lstm or dense
    config.encoder.hidden_size = 64  # lstm
    config.encoder.num_layers = 1  # lstm
    config.encoder.bidirectional = False  # lstm: rows from both ends
    config.encoder.mlp_sizes = ()  # lstm: dense layers before the two heads
    config.encoder.map_channels = 0  # lstm: of maps of half the size that it reads; 0 for none
    config.encoder.residual_blocks = 0  # lstm: on these maps
    config.encoder.dense_sizes = (512, 256)  # dense
    config.encoder.activation = "relu"  # relu or swish, of the dense layers
    config.encoder.mean_activation = "none"  # none or relu

    config.decoder = ml_collections.ConfigDict()
    config.decoder.kind = "conv_transpose"
    config.decoder.dense_sizes = (196,)  # before the layer that fills the grid
    config.decoder.grid_channels = 2  # its height and width: the image's over all strides
    config.decoder.filters = (32, 16, 16)  # of the 3 x 3 transposed convolutions
    config.decoder.strides = (1, 1, 2)  # of these
    config.decoder.dropout_rate = 0.0
    config.decoder.dropout_after = ()  # indices of transposed convolutions, from 0
    config.decoder.residual_blocks = ()  # how many after each transposed convolution; () for none
    config.decoder.activation = "relu"  # relu or swish
    config.decoder.head = "dense"  # dense or conv

    config.loss = ml_collections.ConfigDict()
    config.loss.kl_weight = 1.0
    config.loss.kl_warmup_steps = 0  # over which that weight grows from 0
    config.loss.free_bits = 0.0  # nats a latent variable has for nothing
    config.loss.num_importance_samples = 1  # more: the importance-weighted bound
    config.loss.path_gradient = False  # to the encoder through samples alone, where there are any
    config.loss.elbo_warmup_epochs = 0  # epochs of one sample, before there are that many

    config.train = ml_collections.ConfigDict()
    config.train.num_epochs = 50
    config.train.batch_size = 100
    config.train.learning_rate = 0.0005  # of Adam
    config.train.learning_rate_schedule = "constant"  # constant, cosine or burda
    config.train.max_gradient_norm = 0.0  # to which larger gradients are scaled down; 0 for none
    config.train.weight_decay = 0.0  # of the kernels, each step, times the learning rate
    config.train.ema_decay = 0.0  # of the parameters' average, which is evaluated; 0 for none
    config.train.skip_nonfinite = False  # skip updates that are not finite, instead of stopping
    config.train.num_replicas = 1  # seeds trained side by side, from `seed` on
    config.train.checkpoint_seconds = 10.0  # between checkpoints; 0 for one after every epoch

    config.sample = ml_collections.ConfigDict()
    config.sample.pixels = False  # mode sample: draw pixels too, in place of their means

    config.evaluate = ml_collections.ConfigDict()
    config.evaluate.num_importance_samples = 100  # for each image, of binarized data
    return config


_COUNT = range(2**31)
_SMALL_COUNT = range(101)
_WEIGHT = (0.0, 1e30)
_ACTIVATIONS = ("relu", "swish")

# Allowed values of a field, or of each entry of a tuple: a tuple of choices, a range of integers,
# or the lowest and the highest float. Paths and booleans have no entry; other integers are sizes,
# from 1 on.
ALLOWED = {
    "seed": range(2**32),
    "initialization": ("flax", "tensorflow"),
    "output_bias_init": ("zeros", "data_mean"),
    "data.name": ("mnist", "fashion_mnist", "kmnist", "mnist_5k", "images"),
    "data.image_size": range(1, 4097),
    "data.channels": (0, 1, 3),
    "data.levels": range(2**16 + 1),
    "data.binarization": ("none", "dynamic"),
    "data.on_device": ("auto", "true", "false"),
    "prior.kind": ("standard_normal", "coupling_flow", "mixture", "vamp"),
    "prior.pseudo_inputs": ("learned", "data"),
    "likelihood.kind": ("bernoulli", "continuous_bernoulli", "gaussian", "discretized_logistic"),
    "condition.kind": ("none", "label"),
    "encoder.kind": ("lstm", "dense"),
    "encoder.num_layers": range(1, 101),
    "encoder.map_channels": range(2**16),
    "encoder.residual_blocks": _SMALL_COUNT,
    "encoder.activation": _ACTIVATIONS,
    "encoder.mean_activation": ("none", "relu"),
    "decoder.kind": ("conv_transpose",),
    "decoder.dropout_rate": (0.0, 0.999),
    "decoder.dropout_after": _SMALL_COUNT,
    "decoder.residual_blocks": _SMALL_COUNT,
    "decoder.activation": _ACTIVATIONS,
    "decoder.head": ("dense", "conv"),
    "loss.kl_weight": _WEIGHT,
    "loss.kl_warmup_steps": _COUNT,
    "loss.free_bits": _WEIGHT,
    "loss.elbo_warmup_epochs": _COUNT,
    "train.learning_rate": (1e-30, 1e30),
    "train.learning_rate_schedule": ("constant", "cosine", "burda"),
    "train.max_gradient_norm": _WEIGHT,
    "train.weight_decay": _WEIGHT,
    "train.ema_decay": (0.0, 0.9999999),
    "train.checkpoint_seconds": (0.0, 1e9),
}
