"""Embeddings of identities: a network from images to unit vectors, its loss, and how it is verified."""
