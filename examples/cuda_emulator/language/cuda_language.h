// Stands in for the CUDA C++ language, so that g++ compiles a .cu file as plain C++: included before its first line.
// __shared__ is no keyword here: Python rewrites such declarations (translate.py).
#pragma once
#include <math.h>  // libstdc++'s: floor, fma, isnan ... overloaded for float and double, as CUDA has them

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>

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

// A parameter of a function below: the line that calls it.
#define CUDA_EMULATOR_PLACE cuda_emulator::Place place = cuda_emulator::Place{__builtin_FILE(), __builtin_LINE()}

#include "atomics.h"
#include "collectives.h"
#include "device_math.h"
#include "entry.h"
#include "vectors.h"
