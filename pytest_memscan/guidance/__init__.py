"""What turns a fine-tune's denoiser into one that is guided away from its base.

Attaches to a stock pipeline's denoiser; sampling loops and prompt encoding stay diffusers'.
"""
