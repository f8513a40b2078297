"""y_k changes with x_k alone, and is as steep as max(0, x) there: 1 right of 0, 0 left of it."""


def backward(self, grad_output):
    return grad_output * (self.x > 0)
