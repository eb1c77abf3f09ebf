"""Asynchronous denoising: every latent pixel on its own noise schedule."""
