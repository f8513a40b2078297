// Batch normalisation of (A, C, B) arrays, the numbers of a channel in A runs of B. One block takes a channel, which no
// other block touches; its threads share out the numbers and add up sums in a fixed order: no races, the same bits.
#include "cuda.cuh"

// The sum over a channel of what `term` says of the number at offset k, known to all threads of the block.
template <typename Term>
__device__ number channel_sum(Term term, int c, index_t A, int C, index_t B) {
    __shared__ number shared;
    number sum = 0;
    for (index_t i = threadIdx.x; i < A * B; i += blockDim.x) sum += term((i / B * C + c) * B + i % B);
    sum = block_sum(sum);  // begins with a barrier: by then everybody has read the last sum from `shared`
    if (threadIdx.x == 0) shared = sum;
    __syncthreads();
    return shared;
}

// y = gamma x_hat + beta where x_hat = (x - mean) / sqrt(variance + eps); statistics holds mean, variance, 1 / sqrt(...)
extern "C" __global__ void standardise_forward(number* y, number* statistics, const number* x, const number* gamma,
                                               const number* beta, number eps, index_t A, int C, index_t B) {
    for (int c = blockIdx.x; c < C; c += gridDim.x) {
        number count = A * B;
        number mean = channel_sum([=](index_t k) { return x[k]; }, c, A, C, B) / count;
        number variance = channel_sum([=](index_t k) { return (x[k] - mean) * (x[k] - mean); }, c, A, C, B) / count;
        number inverse_std = 1 / sqrt(variance + eps), scale = gamma[c] * inverse_std;
        for (index_t i = threadIdx.x; i < A * B; i += blockDim.x) {
            index_t k = (i / B * C + c) * B + i % B;
            y[k] = scale * (x[k] - mean) + beta[c];
        }
        if (threadIdx.x == 0) {
            statistics[c] = mean;
            statistics[C + c] = variance;
            statistics[2 * C + c] = inverse_std;
        }
    }
}

// dx = gamma / sqrt(variance + eps) (dy - mean(dy) - x_hat mean(dy x_hat)); sums holds dgamma and dbeta
extern "C" __global__ void standardise_backward(number* dx, number* sums, const number* g, const number* x,
                                                const number* gamma, const number* means, const number* inverse_stds,
                                                index_t A, int C, index_t B) {
    for (int c = blockIdx.x; c < C; c += gridDim.x) {
        number count = A * B, mean = means[c], inverse_std = inverse_stds[c];
        number dbeta = channel_sum([=](index_t k) { return g[k]; }, c, A, C, B);
        number dgamma = channel_sum([=](index_t k) { return g[k] * ((x[k] - mean) * inverse_std); }, c, A, C, B);
        for (index_t i = threadIdx.x; i < A * B; i += blockDim.x) {
            index_t k = (i / B * C + c) * B + i % B;
            number x_hat = (x[k] - mean) * inverse_std;
            dx[k] = gamma[c] * inverse_std * (g[k] - dbeta / count - x_hat * (dgamma / count));
        }
        if (threadIdx.x == 0) {
            sums[c] = dgamma;
            sums[C + c] = dbeta;
        }
    }
}
