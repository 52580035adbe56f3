"""Which training images are nearest to a generated one: exact, tiled, in bounded memory."""
