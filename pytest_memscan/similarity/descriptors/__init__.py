"""What turns an image into a unit vector: SSCD, image encoders, the built-in network."""
