// How a batch went: one block, each thread of which looks at some of the rows. Thread 0 alone writes.
#include "cuda.cuh"

// losses[k] = loss, correct[k] = how many rows are largest at their label (the first of several), with k = count; count + 1
extern "C" __global__ void record(number* losses, int* correct, int* count, const number* loss, const number* table,
                                  const index_t* labels, int N, int K) {
    int right = 0;
    for (int n = threadIdx.x; n < N; n += blockDim.x) {
        const number* row = table + index_t(n) * K;
        int largest = 0;
        for (int k = 1; k < K; k++)
            if (row[k] > row[largest]) largest = k;
        right += largest == labels[n];
    }
    number sum = block_sum(right);  // a float counts to 2^24 exactly
    if (threadIdx.x == 0) {
        int k = *count;
        losses[k] = *loss;
        correct[k] = int(sum);
        *count = k + 1;
    }
}
