"""dx_s/dtheta_11 = x_t, dx_s/dtheta_12 = y_t, dx_s/dtheta_13 = 1, and the same for y_s in the second row.

So dL/dtheta is the sum over all pixels of the outer product of (dL/dx_s, dL/dy_s) and (x_t, y_t, 1). With a row for
each pixel this is a product of two matrices, whose sum runs over the pixels.
"""


def backward(self, grad_output):
    return grad_output.reshape(-1, 2).T @ self.points.reshape(-1, 3)
