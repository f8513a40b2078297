// Stands in for the CUDA C++ language, so that g++ compiles a .cu file as plain C++: included before its first line.
// __shared__ is no keyword here: Python rewrites such declarations (translate.py).
#pragma once
#include <math.h>  // libstdc++'s: floor, fma, isnan ... overloaded for float and double, as CUDA has them

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <type_traits>

#include "../runtime/interface.h"

#define __CUDA_ARCH__ 800
#define __CUDACC__
#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __restrict__ __restrict
#define __align__(bytes) alignas(bytes)
#define __launch_bounds__(...)

#define threadIdx (cuda_emulator::thread_index)
#define blockIdx (cuda_emulator::block_index)
#define blockDim (cuda_emulator::block_size)
#define gridDim (cuda_emulator::grid_size)
const int warpSize = 32;

namespace cuda_emulator {

// What a type is, in a letter: as NumPy calls it, V for a structure.
template <class T>
constexpr char kind() {
    return std::is_same<T, bool>::value        ? 'b'
           : std::is_floating_point<T>::value ? 'f'
           : !std::is_integral<T>::value      ? 'V'
           : std::is_signed<T>::value         ? 'i'
                                              : 'u';
}

}  // namespace cuda_emulator

// Two parameters of a function below: the line that calls it, which the compiler fills in; and their values.
#define CUDA_EMULATOR_CALLER const char *caller_file = __builtin_FILE(), int caller_line = __builtin_LINE()
#define CUDA_EMULATOR_PLACE caller_file, caller_line

#include "atomics.h"
#include "collectives.h"
#include "device_math.h"
#include "entry.h"
#include "vectors.h"
