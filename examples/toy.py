"""The method without a network: on Gaussian pictures, for which the best denoiser is a formula.

A picture has 12x12 pixels. Its subject, a disc, is +1 on average and all around it -1; every pixel
deviates from that by 1, and neighbours do so alike.

`python examples/toy.py` draws toy.png, a row for each method: the timestep of every pixel at six of
the 50 steps, and one of the 1,000 samples. Under AsynDM the disc follows the curve, the rest the
straight line; AsynDM_external is its name where the mask is given, as the disc is here. It prints,
for each method, and should come to

- means of +1 and -1 within 0.05 and deviations of 0.95 to 1: every method samples the data;
- when the disc stands at timestep 500, how much of its variance the noisy picture leaves open: 0.54
  where the rest stands at 500 as well, 0.47 under AsynDM. That is what clearer context gives.
"""

import argparse

import numpy as np
import torch
from diffusers import DDIMScheduler
from matplotlib.figure import Figure
from torch import Tensor

import asyndm
from asyndm.method import Method
from asyndm.scheduler import AsynchronousScheduler

SIZE, STEPS, PICTURES, CONCAVITY = 12, 50, 1000, 0.5
PLACES = torch.cartesian_prod(*[torch.arange(SIZE).double()] * 2)
DISC = ((PLACES - 5.5).norm(dim=1) < 3.5).view(SIZE, SIZE)
MEAN = torch.where(DISC, 1.0, -1.0).double().flatten()
COVARIANCE = torch.exp(-torch.cdist(PLACES, PLACES) / 4)
MASKS = asyndm.NoMask(), asyndm.GlobalMask(), asyndm.ExternalMask(DISC.double())


def denoise(x: Tensor, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """E[ε | x] for x = α x₀ + σ ε, each pixel with its own α and σ; and Var[x₀ | x] of each."""
    alpha, sigma = alpha.double().flatten(), sigma.double().flatten()
    noisy = alpha[:, None] * COVARIANCE * alpha + torch.diag(sigma**2)
    gain = torch.linalg.solve(noisy, alpha[:, None] * COVARIANCE)
    deviation = x.double().flatten(1) - alpha * MEAN
    epsilon = (deviation - deviation @ gain * alpha) / sigma
    variance = (COVARIANCE - gain.T * alpha @ COVARIANCE).diag()
    return epsilon.float().view_as(x), variance.view(SIZE, SIZE)


argparse.ArgumentParser(description=__doc__.partition("\n")[0]).parse_args()
figure = Figure(figsize=(9, 4.2), layout="constrained")
axes = figure.subplots(3, 2, width_ratios=[6, 1], subplot_kw={"xticks": [], "yticks": []})
for row, mask in zip(axes, MASKS, strict=True):
    method = Method(asyndm.Quadratic(), mask, torch.full((PICTURES, 1), CONCAVITY).double())
    stock = DDIMScheduler(clip_sample=False)
    scheduler = AsynchronousScheduler(stock, method, images=range(PICTURES))
    scheduler.set_timesteps(STEPS)
    scheduler.begin((SIZE, SIZE), None)
    x = torch.randn(PICTURES, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    timesteps, variances = torch.zeros(2, STEPS, SIZE, SIZE)
    for i, timestep in enumerate(scheduler.timesteps):
        assert scheduler.rungs is not None  # they are, once sampling has begun
        rungs = scheduler.rungs[0]  # where the pixels stand, alike in all pictures
        timesteps[i] = scheduler.ladder.timestep(rungs)
        epsilon, variances[i] = denoise(x, *scheduler.ladder.level(rungs))
        scheduler.count(PICTURES)  # the denoiser was told every pixel's level
        x, _ = scheduler.step(epsilon, timestep, x)
    for region, pixels in {"disc": x[:, 0, DISC], "rest": x[:, 0, ~DISC]}.items():
        mean, deviation = pixels.mean(), pixels.std(0).mean()
        print(f"{mask.label:<16}{region}: mean {mean:+.2f}, deviation {deviation:.2f}")
    reached, left_open = (of[:, DISC].mean(1).flip(0).numpy() for of in (timesteps, variances))
    print(f"{mask.label:<16}open at timestep 500: {np.interp(500, reached, left_open):.2f}")
    drawn = row[0].imshow(torch.cat([*timesteps[::9]], dim=1).numpy(), vmin=0, vmax=1000)
    row[0].set(title=f"{mask.label}: timesteps at steps 1, 10, 19, 28, 37 and 46")
    row[1].imshow(x[0, 0].numpy(), vmin=-3, vmax=3, cmap="gray")
    row[1].set(title="a sample")
figure.colorbar(drawn, ax=axes[:, 0], label="timestep")
figure.savefig("toy.png", dpi=120)
