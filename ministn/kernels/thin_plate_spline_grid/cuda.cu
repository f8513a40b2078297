// Grids of thin-plate splines. Forward: one thread for each point of the grid. Backward: a block for each control point and
// each part of each image, whose threads add up two sums over its points; then one thread for each number of theta adds up
// the parts. Every element is written by one thread, sums have a fixed order: no races.
#include "cuda.cuh"

// grid[p] = points[p] + sum over k of B[p, k] (theta[k] - identity[k]); B lies transposed, (K, P)
extern "C" __global__ void thin_plate_spline_grid_forward(
    number* grid, const number* theta, const number* identity, const number* B, const number* points, int N, int K,
    index_t P) {
    FOR_EACH(item, N * P) {
        index_t p = item % P;
        const number* t = theta + item / P * K * 2;
        number x = 0, y = 0;
        for (int k = 0; k < K; k++) {
            number weight = B[k * P + p];
            x += weight * (t[2 * k] - identity[2 * k]);
            y += weight * (t[2 * k + 1] - identity[2 * k + 1]);
        }
        grid[2 * item] = points[2 * p] + x;
        grid[2 * item + 1] = points[2 * p + 1] + y;
    }
}

// d theta[k] = sum over p of B[p, k] d grid[p]; blockIdx is (n K + k, part)
extern "C" __global__ void thin_plate_spline_grid_backward(
    number* grad_theta_of_parts, const number* grad_grid, const number* B, int K, index_t P) {
    index_t item = blockIdx.x, n = item / K, k = item % K;
    number x = 0, y = 0;
    for (index_t p = index_t(blockIdx.y) * blockDim.x + threadIdx.x; p < P; p += gridDim.y * blockDim.x) {
        const number* g = grad_grid + (n * P + p) * 2;
        number weight = B[k * P + p];
        x += weight * g[0];
        y += weight * g[1];
    }
    x = block_sum(x);
    y = block_sum(y);
    if (threadIdx.x == 0) {
        number* sums = grad_theta_of_parts + (item * gridDim.y + blockIdx.y) * 2;
        sums[0] = x;
        sums[1] = y;
    }
}

extern "C" __global__ void thin_plate_spline_grid_add_parts(
    number* grad_theta, const number* grad_theta_of_parts, index_t count, int parts) {
    FOR_EACH(q, count) {
        number sum = 0;
        for (index_t part = 0; part < parts; part++) sum += grad_theta_of_parts[(q / 2 * parts + part) * 2 + q % 2];
        grad_theta[q] = sum;
    }
}
