"""Each channel shifted and scaled to mean 0 and variance 1: what batch normalisation does with a batch.

As NumPy expressions (`reference`, which also serves CuPy arrays, through `cuda`) each operation is a pass over all of
the memory. The loops (`cpu`) finish one channel, which stays in the cache, before they take up the next.
"""
