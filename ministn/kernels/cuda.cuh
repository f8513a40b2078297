// What all kernel files share. `number` is float or double: a file is compiled once for each, with -DNUMBER=...
// Literals are number(0.5): 0.5f would put a float into the double kernel, and 0.5 a double, slow, into the float one.

typedef NUMBER number;
typedef long long index_t;  // of an element: an array may have more than 2^31

// for (index_t i = ...): the items i that this thread works on, of `count` in all. The whole grid of threads strides over
// them together, so any number of blocks gives the same result.
#define FOR_EACH(i, count)                                                    \
    for (index_t i = index_t(blockIdx.x) * blockDim.x + threadIdx.x; i < (count); \
         i += index_t(gridDim.x) * blockDim.x)

// The sum of `value` over the 32 threads of a warp, in lane 0. All 32 must call it, which is what 0xffffffff says.
// After the first step lanes 0 to 15 hold sums of two, then 0 to 7 sums of four, ...
__device__ inline number warp_sum(number value) {
    for (int distance = 16; distance > 0; distance /= 2)
        value += __shfl_down_sync(0xffffffffu, value, distance);
    return value;
}

// The sum of `value` over a block, in thread 0, always added in the same order. All threads must call it, and their
// number (at most 1024) must be a multiple of 32.
__device__ inline number block_sum(number value) {
    __shared__ number of_warp[32];
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    value = warp_sum(value);
    __syncthreads();  // the room may still be read by an earlier call
    if (lane == 0) of_warp[warp] = value;
    __syncthreads();
    if (warp == 0) value = warp_sum(lane < warps ? of_warp[lane] : number(0));
    return value;
}
