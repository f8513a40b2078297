// Where threads wait for each other: barriers of a block, and votes and shuffles of a warp.
#pragma once

inline void __syncthreads(CUDA_EMULATOR_CALLER) { cuda_emulator::block_barrier(false, {CUDA_EMULATOR_PLACE}); }

inline int __syncthreads_count(int predicate, CUDA_EMULATOR_CALLER) {
    return cuda_emulator::block_barrier(predicate != 0, {CUDA_EMULATOR_PLACE});
}

inline int __syncthreads_or(int predicate, CUDA_EMULATOR_CALLER) { return __syncthreads_count(predicate, CUDA_EMULATOR_PLACE) > 0; }

inline int __syncthreads_and(int predicate, CUDA_EMULATOR_CALLER) {
    return __syncthreads_count(predicate, CUDA_EMULATOR_PLACE) == int(blockDim.x * blockDim.y * blockDim.z);
}

inline void __syncwarp(unsigned mask = 0xffffffffu, CUDA_EMULATOR_CALLER) {
    cuda_emulator::warp_operation(cuda_emulator::Warp::barrier, mask, {}, 0, {CUDA_EMULATOR_PLACE});
}

inline unsigned __ballot_sync(unsigned mask, int predicate, CUDA_EMULATOR_CALLER) {
    return unsigned(cuda_emulator::warp_operation(cuda_emulator::Warp::ballot, mask, {{predicate != 0}, 'u', 4}, 0, {CUDA_EMULATOR_PLACE}).word[0]);
}

inline int __any_sync(unsigned mask, int predicate, CUDA_EMULATOR_CALLER) {
    return __ballot_sync(mask, predicate, CUDA_EMULATOR_PLACE) != 0;
}

inline int __all_sync(unsigned mask, int predicate, CUDA_EMULATOR_CALLER) {
    return __ballot_sync(mask, !predicate, CUDA_EMULATOR_PLACE) == 0;
}

namespace cuda_emulator {

inline int lane() { return (threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z)) % 32; }

template <class T>
T shuffle(unsigned mask, T value, int source, Place place) {
    static_assert(sizeof(T) <= sizeof(Words::word), "a shuffle takes numbers, not structures");
    Words words = {{}, kind<T>(), sizeof value};
    memcpy(words.word, &value, sizeof value);
    words = warp_operation(Warp::shuffle, mask, words, source, place);
    memcpy(&value, words.word, sizeof value);
    return value;
}

}  // namespace cuda_emulator

// `width` divides the warp into groups of lanes that shuffle among themselves. Who would read beyond the group gets its own
// value.
template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, CUDA_EMULATOR_CALLER) {
    int group = cuda_emulator::lane() / width * width;
    return cuda_emulator::shuffle(mask, value, group + (source & (width - 1)), {CUDA_EMULATOR_PLACE});
}

template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned distance, int width = 32, CUDA_EMULATOR_CALLER) {
    int lane = cuda_emulator::lane(), source = lane - int(distance);
    return cuda_emulator::shuffle(mask, value, source < lane / width * width ? lane : source, {CUDA_EMULATOR_PLACE});
}

template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned distance, int width = 32, CUDA_EMULATOR_CALLER) {
    int lane = cuda_emulator::lane(), source = lane + int(distance);
    return cuda_emulator::shuffle(mask, value, source >= (lane / width + 1) * width ? lane : source, {CUDA_EMULATOR_PLACE});
}

// The other way to be beyond the group: lower groups may be read, higher ones not.
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32, CUDA_EMULATOR_CALLER) {
    int lane = cuda_emulator::lane(), source = lane ^ bits;
    return cuda_emulator::shuffle(mask, value, source >= (lane / width + 1) * width ? lane : source, {CUDA_EMULATOR_PLACE});
}

// Threads take turns at barriers only, and what one has written all others see.
inline void __threadfence() {}
inline void __threadfence_block() {}
