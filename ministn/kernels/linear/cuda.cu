// A matrix product for steps that are recorded as a graph, in which CuPy does not call its own. One thread takes some numbers
// of the result and adds up their products one after another. Every element is written by one thread: no races.
#include "cuda.cuh"

// C[m,n] = sum over k of A[m,k] B[k,n]. A matrix may lie transposed: its numbers are `down` apart from row to row, `right`
// from column to column.
extern "C" __global__ void product(number* c, const number* a, const number* b, int M, int N, int K, index_t a_down,
                                   index_t a_right, index_t b_down, index_t b_right) {
    FOR_EACH(item, index_t(M) * N) {
        index_t m = item / N, n = item % N;
        number sum = 0;
        for (int k = 0; k < K; k++) sum += a[m * a_down + k * a_right] * b[k * b_down + n * b_right];
        c[item] = sum;
    }
}
