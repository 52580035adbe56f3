"""Cheap prompt detectors: scores of a few denoiser calls, higher or lower on memorised prompts."""
