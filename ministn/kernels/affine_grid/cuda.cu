// Affine grids. Forward: one thread for each point of the grid. Backward: a block for each part of each image, whose
// threads add up the six sums over its points; then one thread for each number of theta adds up the parts. Every element
// is written by one thread, sums have a fixed order: no races.
#include "cuda.cuh"

// (x_s, y_s) = theta (x_t, y_t, 1), equation (1)
extern "C" __global__ void affine_grid_forward(
    number* grid, const number* theta, const number* x, const number* y, int N, int H, int W) {
    FOR_EACH(p, index_t(N) * H * W) {
        int j = p % W, i = p / W % H;
        const number* t = theta + p / W / H * 6;
        grid[2 * p] = t[0] * x[j] + t[1] * y[i] + t[2];
        grid[2 * p + 1] = t[3] * x[j] + t[4] * y[i] + t[5];
    }
}

// d theta = sum over i, j of (dx_s, dy_s)^T (x_t, y_t, 1); blockIdx is (n, part)
extern "C" __global__ void affine_grid_backward(
    number* grad_theta_of_parts, const number* grad_grid, const number* x, const number* y, int H, int W) {
    index_t n = blockIdx.x, points = index_t(H) * W;
    number sums[6] = {0, 0, 0, 0, 0, 0};
    for (index_t p = index_t(blockIdx.y) * blockDim.x + threadIdx.x; p < points; p += gridDim.y * blockDim.x) {
        const number* g = grad_grid + (n * points + p) * 2;
        number x_t = x[p % W], y_t = y[p / W];
        for (int a = 0; a < 2; a++) {
            sums[3 * a] += g[a] * x_t;
            sums[3 * a + 1] += g[a] * y_t;
            sums[3 * a + 2] += g[a];
        }
    }
    for (int k = 0; k < 6; k++) {
        number sum = block_sum(sums[k]);
        if (threadIdx.x == 0) grad_theta_of_parts[(n * gridDim.y + blockIdx.y) * 6 + k] = sum;
    }
}

extern "C" __global__ void affine_grid_add_parts(number* grad_theta, const number* grad_theta_of_parts, int N, int parts) {
    FOR_EACH(q, index_t(N) * 6) {
        number sum = 0;
        for (index_t part = 0; part < parts; part++) sum += grad_theta_of_parts[(q / 6 * parts + part) * 6 + q % 6];
        grad_theta[q] = sum;
    }
}
