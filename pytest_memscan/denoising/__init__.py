"""What a stock diffusers pipeline's denoiser says, read from outside the sampling loop."""
