"""Use a trained model: reconstruct, walk through the latent space, sample, find outliers.

After `pip install -e .`, run it from the repository's folder: cell by cell in VS Code or Jupyter,
or all at once.
"""

# %% Load the flagship and digits that come with a dependency, black and white as it knows them.
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score

import vae_jax
from vae_jax import datasets

vae_jax.compilation.use_cache()  # optional: later starts are quicker
vae = vae_jax.load_run("models/flagship")
digits = datasets.load("mnist_5k").test.images[:100] > 127
print(vae, digits.shape)


def show(images, title):
    """Shows images side by side."""
    plt.figure(figsize=(10, 1.3))
    plt.imshow(np.concatenate([*images[..., 0]], axis=1), "gray_r")
    plt.title(title)
    plt.axis("off")
    plt.show()


# %% Reconstruct, walk from a digit to another, sample.
show(digits[:12].astype(float), "digits")
show(vae.reconstruct(digits[:12]), "their reconstructions")
show(vae.interpolate(digits[3], digits[8], num_steps=12), "from one to another")
show(vae.sample(12, seed=0), "samples")

# %% Score outliers: digits of another source, 8x8 pixels enlarged, and inverted ones.
small = load_digits().images[: len(digits)] / 16
enlarged = np.pad(small.repeat(3, 1).repeat(3, 2), ((0, 0), (2, 2), (2, 2))) > 0.5
# Each warns how many images a single sample carries: their log p(x) is a lower bound.
scores = vae.score(digits, num_samples=50)["log_likelihood"]
for name, others in {"enlarged 8x8 digits": enlarged, "inverted digits": ~digits}.items():
    outliers = vae.score(others, num_samples=50)["log_likelihood"]
    labels = np.repeat([1, 0], [len(scores), len(outliers)])
    area = roc_auc_score(labels, np.concatenate([scores, outliers]))
    print(f"{name}: {outliers.mean():.0f} nats, digits {scores.mean():.0f}; AUROC {area:.3f}")
