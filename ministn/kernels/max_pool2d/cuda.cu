// Max pooling. Forward: one thread takes one window. Backward: one thread takes one pixel of x and asks the windows over it
// which of them it has won. Every element is written by one thread, sums have a fixed order: no races.
#include "cuda.cuh"

#define GEOMETRY \
    index_t planes, int H, int W, int OH, int OW, int KH, int KW, int stride_h, int stride_w, int pad_h, int pad_w

// y[n,c,i,j] = max over u,v of x[n,c,p,q] where p = i stride_h - pad_h + u and q = j stride_w - pad_w + v,
// taps[n,c,i,j] = u KW + v of the first largest; with `relu`, 0 is there before the first, as tap number KH KW.
// A plane is one channel of one image.
template <typename integer>
__device__ void forward(number* y, integer* taps, const number* x, int relu, GEOMETRY) {
    FOR_EACH(item, planes * OH * OW) {
        int j = item % OW, i = item / OW % OH;
        index_t plane = item / OW / OH;
        const number* image = x + plane * H * W;
        int top = i * stride_h - pad_h, left = j * stride_w - pad_w;
        int first_u = max(0, -top), end_u = min(KH, H - top), first_v = max(0, -left), end_v = min(KW, W - left);
        number largest = image[index_t(top + first_u) * W + left + first_v];
        int winner = first_u * KW + first_v;
        if (relu) {
            largest = 0;
            winner = KH * KW;
        }
        for (int u = first_u; u < end_u; u++)
            for (int v = first_v; v < end_v; v++) {
                number value = image[index_t(top + u) * W + left + v];
                if (value > largest || value != value) {  // larger, or NaN
                    largest = value;
                    winner = u * KW + v;
                }
            }
        y[item] = largest;
        taps[item] = winner;
    }
}

// dx[n,c,p,q] = sum of g[n,c,i,j] over the windows i,j in which p,q is tap u,v, where taps[n,c,i,j] = u KW + v
template <typename integer>
__device__ void backward(number* dx, const number* g, const integer* taps, GEOMETRY) {
    FOR_EACH(item, planes * H * W) {
        int q = item % W, p = item / W % H;
        index_t plane = item / W / H;
        int down = p + pad_h, right = q + pad_w;
        number sum = 0;
        for (int i = down < KH ? 0 : (down - KH) / stride_h + 1; i < OH && i * stride_h <= down; i++)
            for (int j = right < KW ? 0 : (right - KW) / stride_w + 1; j < OW && j * stride_w <= right; j++) {
                int u = down - i * stride_h, v = right - j * stride_w;
                index_t window = (plane * OH + i) * OW + j;
                if (taps[window] == u * KW + v) sum += g[window];
            }
        dx[item] = sum;
    }
}

// A tap takes one byte where windows have fewer than 256, as on the CPU; else four.
extern "C" __global__ void max_pool2d_forward_uint8(number* y, unsigned char* taps, const number* x, int relu, GEOMETRY) {
    forward(y, taps, x, relu, planes, H, W, OH, OW, KH, KW, stride_h, stride_w, pad_h, pad_w);
}

extern "C" __global__ void max_pool2d_forward_uint32(number* y, unsigned* taps, const number* x, int relu, GEOMETRY) {
    forward(y, taps, x, relu, planes, H, W, OH, OW, KH, KW, stride_h, stride_w, pad_h, pad_w);
}

extern "C" __global__ void max_pool2d_backward_uint8(number* dx, const number* g, const unsigned char* taps, GEOMETRY) {
    backward(dx, g, taps, planes, H, W, OH, OW, KH, KW, stride_h, stride_w, pad_h, pad_w);
}

extern "C" __global__ void max_pool2d_backward_uint32(number* dx, const number* g, const unsigned* taps, GEOMETRY) {
    backward(dx, g, taps, planes, H, W, OH, OW, KH, KW, stride_h, stride_w, pad_h, pad_w);
}
