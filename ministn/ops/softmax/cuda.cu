// Logarithms of softmaxes along the middle axis of (A, K, B), and the table (N, K) of them looked up by labels. One thread
// takes whole softmaxes, whose numbers no other thread touches: no races.
#include "cuda.cuh"

// y_k = x_k - ln sum_j e^(x_j - top) - top, with the largest x as top: e^0 is the largest term, none overflows
extern "C" __global__ void log_softmax(number* y, const number* x, index_t A, int K, index_t B) {
    FOR_EACH(i, A * B) {
        index_t start = i / B * K * B + i % B;
        number top = x[start], total = 0;
        for (int k = 1; k < K; k++) top = x[start + k * B] > top ? x[start + k * B] : top;
        for (int k = 0; k < K; k++) total += exp(x[start + k * B] - top);
        for (int k = 0; k < K; k++) y[start + k * B] = (x[start + k * B] - top) - log(total);
    }
}

// dx_k = g_k - e^(y_k) sum_j g_j
extern "C" __global__ void log_softmax_gradient(
    number* dx, const number* g, const number* y, index_t A, int K, index_t B) {
    FOR_EACH(i, A * B) {
        index_t start = i / B * K * B + i % B;
        number total = 0;
        for (int k = 0; k < K; k++) total += g[start + k * B];
        for (int k = 0; k < K; k++) dx[start + k * B] = g[start + k * B] - exp(y[start + k * B]) * total;
    }
}

// values[n] = table[n, labels[n]]; NaN for a label that is no class, since a kernel cannot raise an error
extern "C" __global__ void picked(number* values, const number* table, const index_t* labels, index_t N, int K) {
    FOR_EACH(n, N) {
        bool is_class = labels[n] >= 0 && labels[n] < K;
        values[n] = is_class ? table[n * K + labels[n]] : number(0) / number(0);
    }
}

// table[n, k] = values[n] where k is labels[n], else 0
extern "C" __global__ void placed(number* table, const number* values, const index_t* labels, index_t N, int K) {
    FOR_EACH(i, N * K) table[i] = i % K == labels[i / K] ? values[i / K] : number(0);
}
