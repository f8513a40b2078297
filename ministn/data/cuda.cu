// Mini-batches of images that are in the memory of the device: one thread makes one pixel of the batch, and that of an
// image's first pixel its label, too. Every element is written by one thread: no races.
#include "cuda.cuh"

typedef unsigned char byte;

// batch[b,i,j] = normalised(images[order[b], i - dy, j - dx]) with the shift (dy, dx) of b; pixel 0 where that is outside
extern "C" __global__ void gather(number* batch, index_t* batch_labels, const byte* images, const index_t* labels,
                                  const number* normalised, const index_t* order, const int* shifts, int B, int H,
                                  int W) {
    FOR_EACH(p, index_t(B) * H * W) {
        index_t b = p / W / H;
        int i = p / W % H - shifts[2 * b], j = p % W - shifts[2 * b + 1];
        bool inside = i >= 0 && i < H && j >= 0 && j < W;
        batch[p] = normalised[inside ? images[(order[b] * H + i) * W + j] : 0];
        if (p % (index_t(H) * W) == 0) batch_labels[b] = labels[order[b]];
    }
}
