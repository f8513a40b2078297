// Projective grids. Forward: one thread for each point of the grid. Backward: a block for each part of each image, whose
// threads add up the nine sums over its points; then one thread for each number of theta adds up the parts. Every element
// is written by one thread, sums have a fixed order: no races.
#include "cuda.cuh"

struct Source {
    number x, y;   // X / w, Y / w
    number per_w;  // 1 / w
    bool is_near;  // the horizon: w is a constant there
};

// The source point of the target point (x, y): (X, Y, w) = theta (x, y, 1), with w kept away from 0.
__device__ inline Source source(const number* theta, number x, number y, number horizon) {
    number w = theta[6] * x + theta[7] * y + theta[8];
    bool is_near = -horizon < w && w < horizon;
    if (is_near) w = w >= 0 ? horizon : -horizon;
    number per_w = 1 / w;
    return {(theta[0] * x + theta[1] * y + theta[2]) * per_w, (theta[3] * x + theta[4] * y + theta[5]) * per_w, per_w, is_near};
}

extern "C" __global__ void projective_grid_forward(
    number* grid, const number* theta, const number* x, const number* y, int N, int H, int W, number horizon) {
    FOR_EACH(p, index_t(N) * H * W) {
        int j = p % W, i = p / W % H;
        Source s = source(theta + p / W / H * 9, x[j], y[i], horizon);
        grid[2 * p] = s.x;
        grid[2 * p + 1] = s.y;
    }
}

// d theta = sum over i, j of (dX, dY, dw)^T (x_t, y_t, 1), with dX = dx_s / w, dY = dy_s / w, dw = -(dX x_s + dY y_s);
// blockIdx is (n, part)
extern "C" __global__ void projective_grid_backward(
    number* grad_theta_of_parts, const number* grad_grid, const number* theta, const number* x, const number* y, int H,
    int W, number horizon) {
    index_t n = blockIdx.x, points = index_t(H) * W;
    number sums[9] = {0, 0, 0, 0, 0, 0, 0, 0, 0};
    for (index_t p = index_t(blockIdx.y) * blockDim.x + threadIdx.x; p < points; p += gridDim.y * blockDim.x) {
        const number* g = grad_grid + (n * points + p) * 2;
        number x_t = x[p % W], y_t = y[p / W];
        Source s = source(theta + 9 * n, x_t, y_t, horizon);
        number dX = g[0] * s.per_w, dY = g[1] * s.per_w;
        number rows[3] = {dX, dY, s.is_near ? 0 : -(dX * s.x + dY * s.y)};
        for (int a = 0; a < 3; a++) {
            sums[3 * a] += rows[a] * x_t;
            sums[3 * a + 1] += rows[a] * y_t;
            sums[3 * a + 2] += rows[a];
        }
    }
    for (int k = 0; k < 9; k++) {
        number sum = block_sum(sums[k]);
        if (threadIdx.x == 0) grad_theta_of_parts[(n * gridDim.y + blockIdx.y) * 9 + k] = sum;
    }
}

extern "C" __global__ void projective_grid_add_parts(
    number* grad_theta, const number* grad_theta_of_parts, int N, int parts) {
    FOR_EACH(q, index_t(N) * 9) {
        number sum = 0;
        for (index_t part = 0; part < parts; part++) sum += grad_theta_of_parts[(q / 9 * parts + part) * 9 + q % 9];
        grad_theta[q] = sum;
    }
}
