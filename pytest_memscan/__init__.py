"""pytest-memscan: does a diffusion checkpoint leak its training images?"""
