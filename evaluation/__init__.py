"""Scoring, statistics, tables and pictures of finished runs; knows neither Hydra nor the
sampler."""
