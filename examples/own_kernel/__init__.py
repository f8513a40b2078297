"""A kernel family of one's own: soft thresholding, step by step in docs/writing_a_kernel.md."""
