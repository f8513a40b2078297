// Formulas for single numbers: one thread takes some of the numbers, each of which it alone reads and writes.
#include "cuda.cuh"

// max(x, 0); NaN stays NaN
extern "C" __global__ void relu(number* y, const number* x, index_t count) {
    FOR_EACH(i, count) y[i] = x[i] <= 0 ? number(0) : x[i];  // a NaN is not <= 0
}

// g where y > 0, else 0
extern "C" __global__ void relu_gradient(number* dx, const number* g, const number* y, index_t count) {
    FOR_EACH(i, count) dx[i] = y[i] > 0 ? g[i] : number(0);
}

// scale x, with one scale for each run of numbers
extern "C" __global__ void scaled(number* y, const number* x, const number* scale, index_t count, index_t run) {
    FOR_EACH(i, count) y[i] = scale[i / run] * x[i];
}

// The C channels of each image x, and behind them `more` channels that all images share
extern "C" __global__ void with_channels(number* y, const number* x, const number* channels, index_t count, int C,
                                         int more, index_t pixels) {
    FOR_EACH(i, count) {
        index_t p = i % pixels, c = i / pixels % (C + more), n = i / pixels / (C + more);
        y[i] = c < C ? x[(n * C + c) * pixels + p] : channels[(c - C) * pixels + p];
    }
}

// x <- x + factor y
extern "C" __global__ void add_scaled(number* x, number factor, const number* y, index_t count) {
    FOR_EACH(i, count) x[i] += factor * y[i];
}

// x <- factor x + y
extern "C" __global__ void scale_and_add(number* x, number factor, const number* y, index_t count) {
    FOR_EACH(i, count) x[i] = factor * x[i] + y[i];
}

// m <- beta1 m + (1 - beta1) g, v <- beta2 v + (1 - beta2) g^2, w <- decay w - rate m / (sqrt(v) / scale + eps)
extern "C" __global__ void adam(number* w, number* m, number* v, const number* g, number weight1, number beta2,
                                number weight2, number rate, number scale, number eps, number decay,
                                index_t count) {
    FOR_EACH(i, count) {
        m[i] += weight1 * (g[i] - m[i]);
        v[i] = beta2 * v[i] + weight2 * (g[i] * g[i]);
        w[i] = decay * w[i] - rate * m[i] / (sqrt(v[i]) / scale + eps);
    }
}

// --- random masks ----------------------------------------------------------------------------------------------------
// PCG64, NumPy's generator: a state of 128 bits, state <- a state + increment, of which 64 bits are put out. O'Neill
// 2014, "PCG: a family of simple fast space-efficient statistically good algorithms for random number generation".

typedef unsigned long long word;

struct Wide {  // an integer of 128 bits; sums and products wrap around
    word high, low;
};

__device__ inline Wide operator+(Wide a, Wide b) {
    word low = a.low + b.low;
    return {a.high + b.high + (low < a.low), low};
}

__device__ inline Wide operator*(Wide a, Wide b) {
    return {__umul64hi(a.low, b.low) + a.high * b.low + a.low * b.high, a.low * b.low};
}

// `state` after so many steps: a step is the map s -> a s + c, and doing it twice is s -> a^2 s + (a + 1) c, so 2^k steps
// are k squarings (Brown 1994, "Random number generation with arbitrary strides").
__device__ inline Wide advanced(Wide state, Wide increment, index_t steps) {
    Wide a = {0x2360ed051fc65da4ULL, 0x4385df649fccf645ULL}, c = increment;
    for (; steps > 0; steps /= 2) {
        if (steps % 2) state = a * state + c;
        c = a * c + c;
        a = a * a;
    }
    return state;
}

// The output: the halves, exclusive-or, turned right by what the six top bits say.
__device__ inline word output(Wide state) {
    word mixed = state.high ^ state.low;
    int turn = state.high >> 58;
    return turn ? mixed >> turn | mixed << (64 - turn) : mixed;
}

// `factor` where the i-th number of 24 random bits reaches `threshold`, else 0: the numbers that NumPy's generator draws
// as float32. An output makes two of them, its lower half first; `left_over` is the half that an earlier draw left to
// be the first one now, or -1.
extern "C" __global__ void random_mask(number* mask, word state_high, word state_low, word increment_high,
                                       word increment_low, index_t left_over, int threshold, number factor,
                                       index_t count) {
    int first = left_over >= 0;
    if (first && blockIdx.x == 0 && threadIdx.x == 0) mask[0] = left_over >> 8 >= threshold ? factor : number(0);
    FOR_EACH(k, (count - first + 1) / 2) {
        word bits = output(advanced({state_high, state_low}, {increment_high, increment_low}, k + 1));
        for (int half = 0; half < 2; half++) {
            index_t i = first + 2 * k + half;
            int drawn = int((bits >> (32 * half) & 0xffffffffULL) >> 8);
            if (i < count) mask[i] = drawn >= threshold ? factor : number(0);
        }
    }
}
