// Average pooling. Forward: one thread takes one window. Backward: one thread takes one pixel of x and adds up its shares of
// the windows over it. Every element is written by one thread, sums have a fixed order: no races.
#include "cuda.cuh"

#define GEOMETRY                                                                                              \
    index_t planes, int H, int W, int OH, int OW, int KH, int KW, int stride_h, int stride_w, int pad_h, int pad_w, \
        int border_h, int border_w

// m_i: how many pixels count of the window of `kernel` pixels from `start` on, in a row of `length` pixels; the `border`
// of zeros on each side counts if there is one.
__device__ inline int counted(int start, int kernel, int length, int border) {
    return min(start + kernel, length + border) - max(start, -border);
}

// y[n,c,i,j] = 1 / (m_i m_j) sum over u,v of x[n,c,p,q] where p = i stride_h - pad_h + u and q = j stride_w - pad_w + v.
// A plane is one channel of one image.
extern "C" __global__ void avg_pool2d_forward(number* y, const number* x, GEOMETRY) {
    FOR_EACH(item, planes * OH * OW) {
        int j = item % OW, i = item / OW % OH;
        index_t plane = item / OW / OH;
        const number* image = x + plane * H * W;
        int top = i * stride_h - pad_h, left = j * stride_w - pad_w;
        number sum = 0;
        for (int p = max(0, top); p < min(H, top + KH); p++)
            for (int q = max(0, left); q < min(W, left + KW); q++) sum += image[index_t(p) * W + q];
        y[item] = sum / (number(counted(top, KH, H, border_h)) * counted(left, KW, W, border_w));
    }
}

// dx[n,c,p,q] = sum of g[n,c,i,j] / (m_i m_j) over the windows i,j that cover p,q
extern "C" __global__ void avg_pool2d_backward(number* dx, const number* g, GEOMETRY) {
    FOR_EACH(item, planes * H * W) {
        int q = item % W, p = item / W % H;
        index_t plane = item / W / H;
        int down = p + pad_h, right = q + pad_w;
        number sum = 0;
        for (int i = down < KH ? 0 : (down - KH) / stride_h + 1; i < OH && i * stride_h <= down; i++)
            for (int j = right < KW ? 0 : (right - KW) / stride_w + 1; j < OW && j * stride_w <= right; j++) {
                int rows = counted(i * stride_h - pad_h, KH, H, border_h);
                int columns = counted(j * stride_w - pad_w, KW, W, border_w);
                sum += g[(plane * OH + i) * OW + j] / (number(rows) * columns);
            }
        dx[item] = sum;
    }
}
