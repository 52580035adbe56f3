"""Labels that a checkpoint never had, made from its own images, and what is trained on them."""
