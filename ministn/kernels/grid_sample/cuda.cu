// Grid sampling. One thread for each sample (n, i, j), which finds its T x T taps and visits the channels. In d input
// samples of the same image add to the same pixels, atomically, so the last bits may differ from run to run; or, in a
// fixed order, one thread for each input pixel adds up what belongs to it, from a sorted list of all taps.
#include "cuda.cuh"
#include "sampling.cuh"

// N, C, H, W of the input U; P samples of each image
#define SIZES int N, int C, int H, int W, index_t P, int padding, int align_corners

// The taps of the sample at point (x, y)
template <int T>
__device__ inline void place(
    Taps<T>& x, Taps<T>& y, const number* point, int H, int W, int padding, bool align_corners) {
    place(x, point[0], W, padding, align_corners);
    place(y, point[1], H, padding, align_corners);
}

// V = sum over n and m of U_nm k(x - m) k(y - n), equation (3)
template <int T>
__device__ inline void forward(number* V, const number* U, const number* grid, SIZES) {
    index_t pixels = index_t(H) * W;
    FOR_EACH(s, N * P) {
        index_t n = s / P, p = s % P;
        Taps<T> x, y;
        place(x, y, grid + 2 * s, H, W, padding, align_corners);
        for (int c = 0; c < C; c++)
            V[(n * C + c) * P + p] = weighted_sum(U + (n * C + c) * pixels, W, x, y, x.k, y.k);
    }
}

// d U_nm = sum over i and j of d V_ij k(x - m) k(y - n), equation (6)
template <int T>
__device__ inline void backward_input(number* grad_U, const number* grad_V, const number* grid, SIZES) {
    index_t pixels = index_t(H) * W;
    FOR_EACH(s, N * P) {
        index_t n = s / P, p = s % P;
        Taps<T> x, y;
        place(x, y, grid + 2 * s, H, W, padding, align_corners);
        for (int c = 0; c < C; c++)
            add_weights(grad_U + (n * C + c) * pixels, W, x, y, grad_V[(n * C + c) * P + p]);
    }
}

// d grid: what the loss gains when the sample moves along x and along y, equation (7)
template <int T>
__device__ inline void backward_grid(
    number* grad_grid, const number* grad_V, const number* U, const number* grid, SIZES) {
    index_t pixels = index_t(H) * W;
    FOR_EACH(s, N * P) {
        index_t n = s / P, p = s % P;
        Taps<T> x, y;
        place(x, y, grid + 2 * s, H, W, padding, align_corners);
        number grad_x = 0, grad_y = 0;
        for (int c = 0; c < C; c++) {
            number g = grad_V[(n * C + c) * P + p];
            const number* image = U + (n * C + c) * pixels;
            grad_x += g * weighted_sum(image, W, x, y, x.slope, y.k);
            grad_y += g * weighted_sum(image, W, x, y, x.k, y.slope);
        }
        grad_grid[2 * s] = grad_x;
        grad_grid[2 * s + 1] = grad_y;
    }
}

// For d input in a fixed order: a key for each tap, which says its pixel (of all images) and then its place in the list,
// so that sorted keys are grouped by pixel, and ordered within each group. Taps outside get the pixel after the last one.
template <int T>
__device__ inline void list_taps(index_t* keys, number* weights, const number* grid, SIZES) {
    index_t pixels = index_t(H) * W, taps = N * P * T * T;
    FOR_EACH(s, N * P) {
        index_t n = s / P;
        Taps<T> x, y;
        place(x, y, grid + 2 * s, H, W, padding, align_corners);
        for (int v = 0; v < T; v++)
            for (int u = 0; u < T; u++) {
                bool inside = x.m[u] >= 0 && y.m[v] >= 0;
                index_t pixel = inside ? n * pixels + index_t(y.m[v]) * W + x.m[u] : N * pixels;
                index_t tap = (s * T + v) * T + u;
                keys[tap] = pixel * taps + tap;
                weights[tap] = y.k[v] * x.k[u];
            }
    }
}

// The second half: each pixel finds its first key by bisection and adds up the taps that follow, T x T of a sample.
extern "C" __global__ void grid_sample_add_taps(
    number* grad_U, const number* grad_V, const index_t* keys, const number* weights, int N, int C, int H, int W,
    index_t P, int taps_of_sample) {
    index_t pixels = index_t(H) * W, taps = N * P * taps_of_sample;
    FOR_EACH(q, index_t(N) * C * pixels) {
        index_t image = q / pixels, first_key = (image / C * pixels + q % pixels) * taps;
        index_t from = 0, to = taps;
        while (from < to) {
            index_t middle = (from + to) / 2;
            if (keys[middle] < first_key) from = middle + 1;
            else to = middle;
        }
        number sum = 0;
        for (; from < taps && keys[from] < first_key + taps; from++) {
            index_t tap = keys[from] - first_key;
            sum += grad_V[image * P + tap / taps_of_sample % P] * weights[tap];
        }
        grad_U[q] = sum;
    }
}

// What is launched: each of the above for every mode, by the number of taps along an axis.

extern "C" __global__ void grid_sample_forward_nearest(number* V, const number* U, const number* grid, SIZES) {
    forward<1>(V, U, grid, N, C, H, W, P, padding, align_corners);
}
extern "C" __global__ void grid_sample_forward_bilinear(number* V, const number* U, const number* grid, SIZES) {
    forward<2>(V, U, grid, N, C, H, W, P, padding, align_corners);
}
extern "C" __global__ void grid_sample_forward_bicubic(number* V, const number* U, const number* grid, SIZES) {
    forward<4>(V, U, grid, N, C, H, W, P, padding, align_corners);
}

extern "C" __global__ void grid_sample_backward_input_nearest(
    number* grad_U, const number* grad_V, const number* grid, SIZES) {
    backward_input<1>(grad_U, grad_V, grid, N, C, H, W, P, padding, align_corners);
}
extern "C" __global__ void grid_sample_backward_input_bilinear(
    number* grad_U, const number* grad_V, const number* grid, SIZES) {
    backward_input<2>(grad_U, grad_V, grid, N, C, H, W, P, padding, align_corners);
}
extern "C" __global__ void grid_sample_backward_input_bicubic(
    number* grad_U, const number* grad_V, const number* grid, SIZES) {
    backward_input<4>(grad_U, grad_V, grid, N, C, H, W, P, padding, align_corners);
}

extern "C" __global__ void grid_sample_backward_grid_bilinear(
    number* grad_grid, const number* grad_V, const number* U, const number* grid, SIZES) {
    backward_grid<2>(grad_grid, grad_V, U, grid, N, C, H, W, P, padding, align_corners);
}
extern "C" __global__ void grid_sample_backward_grid_bicubic(
    number* grad_grid, const number* grad_V, const number* U, const number* grid, SIZES) {
    backward_grid<4>(grad_grid, grad_V, U, grid, N, C, H, W, P, padding, align_corners);
}

extern "C" __global__ void grid_sample_list_taps_nearest(index_t* keys, number* weights, const number* grid, SIZES) {
    list_taps<1>(keys, weights, grid, N, C, H, W, P, padding, align_corners);
}
extern "C" __global__ void grid_sample_list_taps_bilinear(index_t* keys, number* weights, const number* grid, SIZES) {
    list_taps<2>(keys, weights, grid, N, C, H, W, P, padding, align_corners);
}
extern "C" __global__ void grid_sample_list_taps_bicubic(index_t* keys, number* weights, const number* grid, SIZES) {
    list_taps<4>(keys, weights, grid, N, C, H, W, P, padding, align_corners);
}
