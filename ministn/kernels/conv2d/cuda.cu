// Convolution. Forward and gradient for x: one thread makes one number. Gradients for w and b: one block makes one number,
// its threads share out the sum. Each reads what others read and writes what it alone owns, and sums have a fixed order:
// no races.
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

// db[o] = sum over n,i,j of g[n,o,i,j], equation (3)
extern "C" __global__ void conv2d_grad_bias(number* db, const number* g, int N, int O, int OH, int OW) {
    for (int o = blockIdx.x; o < O; o += gridDim.x) {
        number sum = 0;
        for (index_t item = threadIdx.x; item < index_t(N) * OH * OW; item += blockDim.x) {
            index_t n = item / (index_t(OH) * OW), pixel = item % (index_t(OH) * OW);
            sum += g[(n * O + o) * OH * OW + pixel];
        }
        sum = block_sum(sum);
        if (threadIdx.x == 0) db[o] = sum;
    }
}
