"""The logarithm of the softmax along an axis: how sure a classifier is of each class.

As NumPy expressions (`reference`, which also serves CuPy arrays, through `cuda`) it is half a dozen calls on arrays so
small that the calls take longer than the arithmetic. The loops (`cpu`) are one call.
"""
