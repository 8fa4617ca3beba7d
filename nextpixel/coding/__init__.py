"""Lossless compression: a model's likelihood as the rate of an image codec."""
