// Functions of the device that the C library lacks. What it has is used as it is: results may differ from the device's in
// the last bits, also those of the fast __expf() and its like.
#pragma once

inline float rsqrtf(float x) { return 1 / sqrtf(x); }
inline float rsqrt(float x) { return 1 / sqrtf(x); }
inline double rsqrt(double x) { return 1 / sqrt(x); }
inline float __saturatef(float x) { return x > 0 ? (x < 1 ? x : 1) : 0; }  // NaN becomes 0
inline float __fdividef(float x, float y) { return x / y; }
#define __expf expf  // macros, because the C library has declared functions of these names
#define __logf logf
#define __sinf sinf
#define __cosf cosf
#define __powf powf

// Rounded each for itself, never fused: `volatile` keeps the compiler from it.
inline float __fmul_rn(float x, float y) {
    volatile float product = x * y;
    return product;
}
inline float __fadd_rn(float x, float y) {
    volatile float sum = x + y;
    return sum;
}
inline double __dmul_rn(double x, double y) {
    volatile double product = x * y;
    return product;
}
inline double __dadd_rn(double x, double y) {
    volatile double sum = x + y;
    return sum;
}
inline float __fmaf_rn(float x, float y, float z) { return fmaf(x, y, z); }

// Conversions that round down or to the nearest.
inline int __float2int_rd(float x) { return int(floorf(x)); }
inline int __float2int_rn(float x) { return int(rintf(x)); }
inline int __double2int_rd(double x) { return int(floor(x)); }
inline int __double2int_rn(double x) { return int(rint(x)); }

namespace cuda_emulator {
template <class To, class From>
To same_bits(From value) {
    static_assert(sizeof(To) == sizeof(From), "");
    To result;
    memcpy(&result, &value, sizeof value);
    return result;
}
}  // namespace cuda_emulator

inline float __int_as_float(int bits) { return cuda_emulator::same_bits<float>(bits); }
inline int __float_as_int(float x) { return cuda_emulator::same_bits<int>(x); }
inline float __uint_as_float(unsigned bits) { return cuda_emulator::same_bits<float>(bits); }
inline unsigned __float_as_uint(float x) { return cuda_emulator::same_bits<unsigned>(x); }
inline double __longlong_as_double(long long bits) { return cuda_emulator::same_bits<double>(bits); }
inline long long __double_as_longlong(double x) { return cuda_emulator::same_bits<long long>(x); }

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __clz(int x) { return x ? __builtin_clz(x) : 32; }
inline int __clzll(long long x) { return x ? __builtin_clzll(x) : 64; }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline int __mulhi(int x, int y) { return int((long long)x * y >> 32); }
inline unsigned __umulhi(unsigned x, unsigned y) { return unsigned((unsigned long long)x * y >> 32); }
inline unsigned long long __umul64hi(unsigned long long x, unsigned long long y) {
    return (unsigned long long)((unsigned __int128)x * y >> 64);
}
inline long long __mul64hi(long long x, long long y) { return (long long)((__int128)x * y >> 64); }

template <class T>
T __ldg(const T* address) {
    return *address;
}

#define CUDA_EMULATOR_MIN_MAX(TYPE)                                 \
    inline TYPE min(TYPE x, TYPE y) { return x < y ? x : y; }       \
    inline TYPE max(TYPE x, TYPE y) { return x > y ? x : y; }

CUDA_EMULATOR_MIN_MAX(int)
CUDA_EMULATOR_MIN_MAX(unsigned)
CUDA_EMULATOR_MIN_MAX(long)
CUDA_EMULATOR_MIN_MAX(unsigned long)
CUDA_EMULATOR_MIN_MAX(long long)
CUDA_EMULATOR_MIN_MAX(unsigned long long)

// Of a number and NaN: the number.
inline float min(float x, float y) { return fminf(x, y); }
inline float max(float x, float y) { return fmaxf(x, y); }
inline double min(double x, double y) { return fmin(x, y); }
inline double max(double x, double y) { return fmax(x, y); }
inline double min(float x, double y) { return fmin(double(x), y); }
inline double max(float x, double y) { return fmax(double(x), y); }
inline double min(double x, float y) { return fmin(x, double(y)); }
inline double max(double x, float y) { return fmax(x, double(y)); }
inline unsigned min(int x, unsigned y) { return min(unsigned(x), y); }
inline unsigned max(int x, unsigned y) { return max(unsigned(x), y); }
inline unsigned min(unsigned x, int y) { return min(x, unsigned(y)); }
inline unsigned max(unsigned x, int y) { return max(x, unsigned(y)); }
