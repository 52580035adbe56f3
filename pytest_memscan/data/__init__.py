"""Training and held-out images: reading and conversion."""
