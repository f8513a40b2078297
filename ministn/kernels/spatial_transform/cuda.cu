// Affine grid and bilinear sampling in one pass. Forward and d input: one thread for each output pixel (n, i, j), which
// finds its point and visits the channels; in d input threads of the same image add to the same pixels, atomically, so
// the last bits may differ from run to run. d theta: a block for each part of each image, sums in a fixed order.
#include "cuda.cuh"
#include "sampling.cuh"

#define TARGET const number *x_t, const number *y_t  // coordinates of the output's columns and rows
#define SIZES int N, int C, int H, int W, int OH, int OW, int align_corners

// The four pixels near the point that theta says for the target point (x_t, y_t).
__device__ inline void place(
    Taps<2>& x, Taps<2>& y, const number* theta, number x_t, number y_t, int H, int W, bool align_corners) {
    place(x, theta[0] * x_t + theta[1] * y_t + theta[2], W, ZEROS, align_corners);
    place(y, theta[3] * x_t + theta[4] * y_t + theta[5], H, ZEROS, align_corners);
}

extern "C" __global__ void spatial_transform_forward(
    number* V, const number* U, const number* theta, TARGET, SIZES) {
    index_t pixels = index_t(H) * W, points = index_t(OH) * OW;
    FOR_EACH(s, N * points) {
        index_t n = s / points, p = s % points;
        Taps<2> x, y;
        place(x, y, theta + 6 * n, x_t[p % OW], y_t[p / OW], H, W, align_corners);
        for (int c = 0; c < C; c++)
            V[(n * C + c) * points + p] = weighted_sum(U + (n * C + c) * pixels, W, x, y, x.k, y.k);
    }
}

extern "C" __global__ void spatial_transform_backward_input(
    number* grad_U, const number* grad_V, const number* theta, TARGET, SIZES) {
    index_t pixels = index_t(H) * W, points = index_t(OH) * OW;
    FOR_EACH(s, N * points) {
        index_t n = s / points, p = s % points;
        Taps<2> x, y;
        place(x, y, theta + 6 * n, x_t[p % OW], y_t[p / OW], H, W, align_corners);
        for (int c = 0; c < C; c++)
            add_weights(grad_U + (n * C + c) * pixels, W, x, y, grad_V[(n * C + c) * points + p]);
    }
}

// d theta = sum over i, j of (dx_s, dy_s)^T (x_t, y_t, 1), where (dx_s, dy_s) is what the loss gains when the point moves;
// blockIdx is (n, part). The parts are added up as those of affine_grid.
extern "C" __global__ void spatial_transform_backward_theta(
    number* grad_theta_of_parts, const number* grad_V, const number* U, const number* theta, TARGET, SIZES) {
    index_t n = blockIdx.x, pixels = index_t(H) * W, points = index_t(OH) * OW;
    number sums[6] = {0, 0, 0, 0, 0, 0};
    for (index_t p = index_t(blockIdx.y) * blockDim.x + threadIdx.x; p < points; p += gridDim.y * blockDim.x) {
        number target[3] = {x_t[p % OW], y_t[p / OW], 1}, grad_x = 0, grad_y = 0;
        Taps<2> x, y;
        place(x, y, theta + 6 * n, target[0], target[1], H, W, align_corners);
        for (int c = 0; c < C; c++) {
            number g = grad_V[(n * C + c) * points + p];
            const number* image = U + (n * C + c) * pixels;
            grad_x += g * weighted_sum(image, W, x, y, x.slope, y.k);
            grad_y += g * weighted_sum(image, W, x, y, x.k, y.slope);
        }
        for (int b = 0; b < 3; b++) {
            sums[b] += grad_x * target[b];
            sums[3 + b] += grad_y * target[b];
        }
    }
    for (int k = 0; k < 6; k++) {
        number sum = block_sum(sums[k]);
        if (threadIdx.x == 0) grad_theta_of_parts[(n * gridDim.y + blockIdx.y) * 6 + k] = sum;
    }
}
