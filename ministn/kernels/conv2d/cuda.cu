// Convolution. Plain kernels: one thread makes a number of y or dx; one block makes a number of dw or db, its threads share
// out the sum. Then tiles for large arrays: one block makes a tile of y, or of dw from a part of the batch, its threads
// share what they read. Every number is written by one thread, and sums have a fixed order: no races.
#include "cuda.cuh"

#define GEOMETRY                                                                                         \
    int N, int C, int H, int W, int O, int KH, int KW, int OH, int OW, int stride_h, int stride_w, int pad_h, \
        int pad_w, int dilation_h, int dilation_w

// Pixel (p, q) of an image of one channel; 0 outside.
__device__ inline number pixel(const number* image, int p, int q, int H, int W) {
    return 0 <= p && p < H && 0 <= q && q < W ? image[index_t(p) * W + q] : number(0);
}

// y[n,o,i,j] = b[o] + sum over c,u,v of w[o,c,u,v] x[n,c,p,q], equation (1)
extern "C" __global__ void conv2d_forward(
    number* y, const number* x, const number* w, const number* b, GEOMETRY) {
    FOR_EACH(item, index_t(N) * O * OH * OW) {
        int j = item % OW, i = item / OW % OH, o = item / OW / OH % O, n = item / OW / OH / O;
        const number* filter = w + index_t(o) * C * KH * KW;
        number sum = b[o];
        for (int c = 0; c < C; c++) {
            const number* image = x + (index_t(n) * C + c) * H * W;
            for (int u = 0; u < KH; u++) {
                int p = i * stride_h - pad_h + u * dilation_h;
                for (int v = 0; v < KW; v++) {
                    int q = j * stride_w - pad_w + v * dilation_w;
                    sum += filter[(index_t(c) * KH + u) * KW + v] * pixel(image, p, q, H, W);
                }
            }
        }
        y[item] = sum;
    }
}

// dx[n,c,p,q] = sum over o,u,v of w[o,c,u,v] g[n,o,i,j] for the i, j whose tap u, v is p, q, equation (5)
extern "C" __global__ void conv2d_grad_input(number* dx, const number* g, const number* w, GEOMETRY) {
    FOR_EACH(item, index_t(N) * C * H * W) {
        int q = item % W, p = item / W % H, c = item / W / H % C, n = item / W / H / C;
        number sum = 0;
        for (int u = 0; u < KH; u++) {
            int down = p + pad_h - u * dilation_h;  // = i stride_h
            if (down < 0 || down % stride_h != 0 || down / stride_h >= OH) continue;
            for (int v = 0; v < KW; v++) {
                int right = q + pad_w - v * dilation_w;  // = j stride_w
                if (right < 0 || right % stride_w != 0 || right / stride_w >= OW) continue;
                index_t output = index_t(down / stride_h) * OW + right / stride_w;
                for (int o = 0; o < O; o++)
                    sum += w[((index_t(o) * C + c) * KH + u) * KW + v] * g[(index_t(n) * O + o) * OH * OW + output];
            }
        }
        dx[item] = sum;
    }
}

// dw[o,c,u,v] = sum over n,i,j of g[n,o,i,j] x[n,c,p,q], equation (4)
extern "C" __global__ void conv2d_grad_weight(number* dw, const number* g, const number* x, GEOMETRY) {
    for (index_t tap = blockIdx.x; tap < index_t(O) * C * KH * KW; tap += gridDim.x) {
        int v = tap % KW, u = tap / KW % KH, c = tap / KW / KH % C, o = tap / KW / KH / C;
        number sum = 0;
        for (index_t item = threadIdx.x; item < index_t(N) * OH * OW; item += blockDim.x) {
            int j = item % OW, i = item / OW % OH, n = item / OW / OH;
            int p = i * stride_h - pad_h + u * dilation_h, q = j * stride_w - pad_w + v * dilation_w;
            number gradient = g[((index_t(n) * O + o) * OH + i) * OW + j];
            sum += gradient * pixel(x + (index_t(n) * C + c) * H * W, p, q, H, W);
        }
        sum = block_sum(sum);
        if (threadIdx.x == 0) dw[tap] = sum;
    }
}

// db[o] = sum over n,i,j of g[n,o,i,j], equation (3); of them a part, said by blockIdx.y
extern "C" __global__ void conv2d_grad_bias(number* parts, const number* g, int N, int O, int OH, int OW) {
    for (int o = blockIdx.x; o < O; o += gridDim.x) {
        number sum = 0;
        index_t first = index_t(blockIdx.y) * blockDim.x + threadIdx.x;
        for (index_t item = first; item < index_t(N) * OH * OW; item += gridDim.y * blockDim.x) {
            index_t n = item / OW / OH, output = item % (index_t(OH) * OW);
            sum += g[(n * O + o) * OH * OW + output];
        }
        sum = block_sum(sum);
        if (threadIdx.x == 0) parts[index_t(blockIdx.y) * O + o] = sum;
    }
}

// --- tiles ------------------------------------------------------------------------------------------------------------
//
// A convolution is a matrix product: y = w x', where column m = (n, i, j) of x' is the window of output pixel m, one number
// for each tap k = (c, u, v). The plain kernels read two numbers for each multiplication. In a tile of channels by pixels
// each number serves a whole row or column of the tile, so it is read from memory once, kept in shared memory, and taken
// from there to registers, where a thread holds ROWS x COLUMNS sums. x' is never stored: the taps are gathered from x.
// row k of `taps` is (c, u dilation_h, v dilation_w): what tap k adds to the corner of a window. It saves two divisions for
// each number gathered.

// Where the window of output pixel m = (n, i, j) begins
struct Window {
    index_t n;
    int top, left;
    __device__ Window(index_t m, int OH, int OW, int stride_h, int stride_w, int pad_h, int pad_w)
        : n(m / OW / OH), top(int(m / OW % OH) * stride_h - pad_h), left(int(m % OW) * stride_w - pad_w) {}
};

__device__ inline number tap_of(const Window& window, const int* tap, const number* x, int C, int H, int W) {
    return pixel(x + (window.n * C + tap[0]) * H * W, window.top + tap[1], window.left + tap[2], H, W);
}

// A block makes a tile of y, CHANNELS x PIXELS, DEPTH taps at a time.
template <int CHANNELS, int PIXELS, int ROWS, int COLUMNS>
__device__ void forward_tile(
    number* y, const number* x, const number* w, const number* b, const int* taps, int K, GEOMETRY) {
    const int DEPTH = 16, SIDE = PIXELS / COLUMNS, THREADS = CHANNELS / ROWS * SIDE;
    // Threads beside each other have pixels beside each other, in x, x_tile and y: coalesced, each in a bank of its own.
    // Weights are read along k, where they are neighbours in w, and stored along o, where a thread reads ROWS of them: the
    // whole warp the same ones, four in one load, for which rows begin at multiples of 16 bytes. With 4 numbers to spare
    // in a row at most two of the 16 x 2 weights that a warp stores are in the same bank; without, eight or sixteen.
    __shared__ __align__(16) number w_tile[DEPTH][CHANNELS + 4];
    __shared__ number x_tile[DEPTH][PIXELS];
    index_t plane = index_t(OH) * OW, M = N * plane, first_m = index_t(blockIdx.x) * PIXELS;
    int first_o = blockIdx.y * CHANNELS, row = threadIdx.x / SIDE * ROWS, column = threadIdx.x % SIDE;
    int staged = threadIdx.x % PIXELS;  // the pixel of the tile that this thread gathers, for some of the taps
    bool inside = first_m + staged < M;
    Window window(inside ? first_m + staged : 0, OH, OW, stride_h, stride_w, pad_h, pad_w);

    number sums[ROWS][COLUMNS];
    for (int r = 0; r < ROWS; r++)
        for (int s = 0; s < COLUMNS; s++) sums[r][s] = first_o + row + r < O ? b[first_o + row + r] : number(0);
    for (int first_k = 0; first_k < K; first_k += DEPTH) {
        for (int item = threadIdx.x; item < CHANNELS * DEPTH; item += THREADS) {
            int o = first_o + item / DEPTH, k = first_k + item % DEPTH;
            w_tile[item % DEPTH][item / DEPTH] = o < O && k < K ? w[index_t(o) * K + k] : number(0);
        }
        for (int first = 0; first < DEPTH; first += THREADS / PIXELS) {
            int t = first + threadIdx.x / PIXELS, k = first_k + t;
            x_tile[t][staged] = inside && k < K ? tap_of(window, taps + 3 * k, x, C, H, W) : number(0);
        }
        __syncthreads();
        for (int t = 0; t < DEPTH; t++)
            for (int s = 0; s < COLUMNS; s++) {
                number value = x_tile[t][column + s * SIDE];
                for (int r = 0; r < ROWS; r++) sums[r][s] += w_tile[t][row + r] * value;
            }
        __syncthreads();  // before the tiles are written again
    }
    for (int s = 0; s < COLUMNS; s++) {
        index_t m = first_m + column + s * SIDE, n = m / plane, output = m % plane;
        for (int r = 0; r < ROWS; r++) {
            int o = first_o + row + r;
            if (m < M && o < O) y[(n * O + o) * plane + output] = sums[r][s];
        }
    }
}

// A block makes a tile of dw, CHANNELS x TAPS, from a part of all output pixels m, 32 at a time, and writes it to its own
// place in `parts`.
template <int CHANNELS, int TAPS, int ROWS, int COLUMNS>
__device__ void grad_weight_tile(
    number* parts, const number* g, const number* x, const int* taps, int K, index_t pixels_of_a_part, GEOMETRY) {
    const int SIDE = TAPS / COLUMNS, WARPS = CHANNELS / ROWS * SIDE / 32;
    // A warp reads 32 pixels beside each other, of g and of x: coalesced, and stores them in 32 banks. With 33 numbers to
    // a row its reads, of the same pixel in rows beside each other, are in different banks, too (in float).
    __shared__ number g_tile[CHANNELS][33], x_tile[TAPS][33];
    index_t plane = index_t(OH) * OW, M = N * plane, begin = blockIdx.z * pixels_of_a_part;
    index_t end = min(M, begin + pixels_of_a_part);
    int first_k = blockIdx.x * TAPS, first_o = blockIdx.y * CHANNELS, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    int row = threadIdx.x / SIDE, column = threadIdx.x % SIDE;

    number sums[ROWS][COLUMNS];
    for (int r = 0; r < ROWS; r++)
        for (int s = 0; s < COLUMNS; s++) sums[r][s] = 0;
    for (index_t first_m = begin; first_m < end; first_m += 32) {
        index_t m = first_m + lane;
        bool inside = m < end;
        Window window(inside ? m : 0, OH, OW, stride_h, stride_w, pad_h, pad_w);
        for (int first = 0; first < CHANNELS; first += WARPS) {
            int t = first + warp, o = first_o + t;
            g_tile[t][lane] = inside && o < O ? g[(window.n * O + o) * plane + m % plane] : number(0);
        }
        for (int first = 0; first < TAPS; first += WARPS) {
            int t = first + warp, k = first_k + t;
            x_tile[t][lane] = inside && k < K ? tap_of(window, taps + 3 * k, x, C, H, W) : number(0);
        }
        __syncthreads();
        for (int p = 0; p < 32; p++)
            for (int s = 0; s < COLUMNS; s++) {
                number value = x_tile[column + s * SIDE][p];
                for (int r = 0; r < ROWS; r++) sums[r][s] += g_tile[row + r * (CHANNELS / ROWS)][p] * value;
            }
        __syncthreads();  // before the tiles are written again
    }
    for (int r = 0; r < ROWS; r++)
        for (int s = 0; s < COLUMNS; s++) {
            int o = first_o + row + r * (CHANNELS / ROWS), k = first_k + column + s * SIDE;
            if (o < O && k < K) parts[(index_t(blockIdx.z) * O + o) * K + k] = sums[r][s];
        }
}

// dw, or db, = the sum of the parts, in their order
extern "C" __global__ void conv2d_add_parts(number* dw, const number* parts, int count, index_t size) {
    FOR_EACH(item, size) {
        number sum = 0;
        for (int part = 0; part < count; part++) sum += parts[part * size + item];
        dw[item] = sum;
    }
}

#define SIZES N, C, H, W, O, KH, KW, OH, OW, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w

extern "C" __global__ void __launch_bounds__(64) conv2d_forward_16x64(
    number* y, const number* x, const number* w, const number* b, const int* taps, int K, GEOMETRY) {
    forward_tile<16, 64, 8, 2>(y, x, w, b, taps, K, SIZES);
}

extern "C" __global__ void __launch_bounds__(256, 1) conv2d_forward_64x128(
    number* y, const number* x, const number* w, const number* b, const int* taps, int K, GEOMETRY) {
    forward_tile<64, 128, 8, 4>(y, x, w, b, taps, K, SIZES);
}

extern "C" __global__ void __launch_bounds__(64) conv2d_grad_weight_16x64(
    number* parts, const number* g, const number* x, const int* taps, int K, index_t pixels_of_a_part, GEOMETRY) {
    grad_weight_tile<16, 64, 4, 4>(parts, g, x, taps, K, pixels_of_a_part, SIZES);
}

extern "C" __global__ void __launch_bounds__(128) conv2d_grad_weight_64x64(
    number* parts, const number* g, const number* x, const int* taps, int K, index_t pixels_of_a_part, GEOMETRY) {
    grad_weight_tile<64, 64, 8, 4>(parts, g, x, taps, K, pixels_of_a_part, SIZES);
}
