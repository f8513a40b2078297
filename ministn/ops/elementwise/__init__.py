"""Formulas for single numbers, applied to arrays of any shape and memory order in one pass.

As NumPy expressions (`reference`, which also serves CuPy arrays, through `cuda`) each operation in a formula is a pass
over memory of its own, and NumPy takes the maximum with a number one at a time. The loops (`cpu`) make one pass.
"""
