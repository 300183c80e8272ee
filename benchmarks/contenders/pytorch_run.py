"""`configs/baseline.py` as one would write it in PyTorch: a DataLoader, a loop, samples.

Started by `train_run.py`. With `--compiled` Adam is fused and the decoder compiled: PyTorch 2.14
compiles no LSTM, and leaves a `forward` that calls one as it is.
"""

import run_io
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

BATCH_SIZE = 100
LEARNING_RATE = 0.0005
LATENT_SIZE = 64


class VAE(nn.Module):
    """An LSTM over an image's rows; transposed convolutions back."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(28, 64, batch_first=True)
        self.mean = nn.Linear(28 * 64, LATENT_SIZE)
        self.log_var = nn.Linear(28 * 64, LATENT_SIZE)
        self.decoder = nn.Sequential(
            nn.Linear(LATENT_SIZE, 196),
            nn.ReLU(),
            nn.Linear(196, 2 * 14 * 14),
            nn.ReLU(),
            nn.Unflatten(1, (2, 14, 14)),
            nn.ConvTranspose2d(2, 32, 3, padding=1),
            nn.ReLU(),
            nn.ConvTranspose2d(32, 16, 3, padding=1),
            nn.ReLU(),
            nn.ConvTranspose2d(16, 16, 3, stride=2, padding=1, output_padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(16 * 28 * 28, 28 * 28),
        )

    def forward(self, images):
        """Returns logits, and mean and log-variance of the posterior."""
        features = self.lstm(images)[0].flatten(1)
        mean, log_var = self.mean(features), self.log_var(features)
        latents = mean + torch.exp(0.5 * log_var) * torch.randn_like(mean)
        return self.decoder(latents), mean, log_var


def loss_sum(logits, images, mean, log_var):
    """Computes the negative ELBO, summed over the batch."""
    cross_entropy = functional.binary_cross_entropy_with_logits(
        logits, images.flatten(1), reduction="sum"
    )
    kl = -0.5 * torch.sum(1 + log_var - mean.pow(2) - log_var.exp())
    return cross_entropy + kl


def train(model, loader, optimizer, device):
    """Trains for one epoch; returns the mean loss."""
    model.train()
    total = 0.0
    for index, (images,) in enumerate(loader):
        images = images.to(device)
        optimizer.zero_grad()
        logits, mean, log_var = model(images)
        loss = loss_sum(logits, images, mean, log_var)
        (loss / len(images)).backward()
        optimizer.step()
        total += loss.item()
        if index == 0:
            print("first step done", flush=True)
    return total / len(loader) / BATCH_SIZE


@torch.no_grad()
def validate(model, loader, device):
    """Returns the mean loss over all images."""
    model.eval()
    total = 0.0
    for (images,) in loader:
        images = images.to(device)
        logits, mean, log_var = model(images)
        total += loss_sum(logits, images, mean, log_var).item()
    return total / len(loader.dataset)


def main():
    """Trains, saves the weights and draws samples."""
    arguments = run_io.parse_arguments(__doc__)
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    images, held_out = run_io.load_images(arguments.data, arguments.validation_size)
    loader = DataLoader(
        TensorDataset(torch.from_numpy(images)), BATCH_SIZE, shuffle=True, drop_last=True
    )
    validation = DataLoader(TensorDataset(torch.from_numpy(held_out)), BATCH_SIZE)
    model = VAE().to(device)
    if arguments.compiled:
        model.decoder.compile()
    optimizer = torch.optim.Adam(
        model.parameters(), LEARNING_RATE, fused=True if arguments.compiled else None
    )
    print(f"parameters {sum(each.numel() for each in model.parameters())}")
    print("first step begins", flush=True)
    for epoch in range(1, arguments.epochs + 1):
        loss = train(model, loader, optimizer, device)
        validation_loss = validate(model, validation, device)
        print(
            f"epoch {epoch}/{arguments.epochs}: train {loss:.2f}, validation {validation_loss:.2f}",
            flush=True,
        )
    torch.save(model.state_dict(), arguments.output / "vae.pt")
    with torch.no_grad():
        logits = model.decoder(torch.randn(100, LATENT_SIZE, device=device))
        samples = torch.sigmoid(logits).view(-1, 28, 28).cpu()
    run_io.save_grid(arguments.output / "samples.png", samples.numpy())


if __name__ == "__main__":
    main()
