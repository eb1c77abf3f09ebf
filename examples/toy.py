"""The method without a network: on Gaussian pictures, for which the best denoiser is a formula.

A picture has 12x12 pixels. Its subject, a disc, is +1 on average and all around it -1; every pixel
deviates from that by 1, and neighbours do so alike. `python examples/toy.py` draws, as toy.png, the
timestep of every pixel at six steps and a sample; under AsynDM the disc follows the curve, the rest
the straight line. It prints, for each method, and should come to

- means of +1 and -1 within 0.05 and deviations of 0.95 to 1: every method samples the data;
- when the disc stands at timestep 500, how much of its variance the noisy picture leaves open: 0.54
  where the rest stands at 500 as well, 0.47 under AsynDM. That is what clearer context gives.
"""

import sys

import numpy as np
import torch
from diffusers import DDIMScheduler
from matplotlib.figure import Figure
from torch import Tensor

import asyndm
from asyndm.ladder import Level
from asyndm.method import Method
from asyndm.scheduler import AsynchronousScheduler

SIZE, STEPS, PICTURES, CONCAVITY = 12, 50, 1000, 0.5
PLACES = torch.cartesian_prod(torch.arange(SIZE), torch.arange(SIZE)).double()
DISC = ((PLACES - 5.5).norm(dim=1) < 3.5).reshape(SIZE, SIZE)
MEAN = torch.where(DISC, 1.0, -1.0).double().flatten()
COVARIANCE = torch.exp(-torch.cdist(PLACES, PLACES) / 4)


def denoise(x: Tensor, level: Level) -> tuple[Tensor, Tensor]:
    """E[ε | x] for x = α x₀ + σ ε, each pixel with its own α and σ; and Var[x₀ | x] of each."""
    alpha, sigma = level.alpha.double().flatten(), level.sigma.double().flatten()
    noisy = alpha[:, None] * COVARIANCE * alpha + torch.diag(sigma**2)
    gain = torch.linalg.solve(noisy, alpha[:, None] * COVARIANCE).T
    residual = x.double().flatten(1) - alpha * MEAN
    epsilon = (residual - residual @ gain.T * alpha) / sigma
    return epsilon.float().view_as(x), (COVARIANCE - (gain * alpha) @ COVARIANCE).diag()


def sample(mask: asyndm.Mask) -> tuple[Tensor, Tensor, Tensor]:
    """The pictures; of each step, the timestep map and how much of the disc's variance is open."""
    stock = DDIMScheduler(clip_sample=False)
    method = Method(asyndm.Quadratic(), mask, torch.full((PICTURES, 1), CONCAVITY).double())
    scheduler = AsynchronousScheduler(stock, method, eta=0.0, images=range(PICTURES))
    scheduler.set_timesteps(STEPS)
    scheduler.begin((SIZE, SIZE), None)
    x = torch.randn(PICTURES, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    maps, left_open = [], []
    for timestep in scheduler.timesteps:
        assert scheduler.rungs is not None  # they are, once sampling has begun
        rungs = scheduler.rungs[0]  # where the pixels stand, alike in all pictures
        epsilon, variance = denoise(x, scheduler.ladder.level(rungs))
        maps.append(scheduler.ladder.timestep(rungs))
        left_open.append(variance[DISC.flatten()].mean())
        scheduler.evaluated = True  # the denoiser was told every pixel's level
        x, _ = scheduler.step(epsilon, timestep, x)
    return x[:, 0], torch.stack(maps), torch.stack(left_open)


masks = {
    "DM": asyndm.NoMask(),
    "DM_concave": asyndm.GlobalMask(),
    "AsynDM": asyndm.ExternalMask(DISC.double()),
}
figure = Figure(figsize=(9, 4.2), layout="constrained")
axes = figure.subplots(3, 7, subplot_kw={"xticks": [], "yticks": []})
for row, (name, mask) in zip(axes, masks.items(), strict=True):
    pictures, maps, left_open = sample(mask)
    for region, pixels in {"disc": pictures[:, DISC], "rest": pictures[:, ~DISC]}.items():
        mean, deviation = float(pixels.mean()), float(pixels.std(0).mean())
        print(f"{name:<11}{region}: mean {mean:+.2f}, deviation {deviation:.2f}")
    at_500 = np.interp(500, maps[:, DISC].mean(1).flip(0).numpy(), left_open.flip(0).numpy())
    print(f"{name:<11}open at timestep 500: {at_500:.2f}")
    for place, i in zip(row, np.linspace(0, STEPS - 1, 6).astype(int), strict=False):
        drawn = place.imshow(maps[i].numpy(), vmin=0, vmax=1000)
        place.set_title(f"step {i + 1}", fontsize=9)
    row[-1].imshow(pictures[0].numpy(), vmin=-3, vmax=3, cmap="gray")
    row[-1].set_title("a sample", fontsize=9)
    row[0].set_ylabel(name)
figure.colorbar(drawn, ax=axes[:, :-1], label="timestep", shrink=0.8)
figure.savefig(sys.argv[1] if len(sys.argv) > 1 else "toy.png", dpi=120)
