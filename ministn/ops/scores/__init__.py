"""How a batch of a training went, kept on the GPU until somebody wants to know it."""
