// float2, float4, ...: plain structures, aligned as on the device.
#pragma once

#define CUDA_EMULATOR_VECTOR2(TYPE, ELEMENT, ALIGNMENT)                 \
    struct alignas(ALIGNMENT) TYPE {                                    \
        ELEMENT x, y;                                                   \
    };                                                                  \
    inline TYPE make_##TYPE(ELEMENT x, ELEMENT y) { return {x, y}; }

#define CUDA_EMULATOR_VECTOR4(TYPE, ELEMENT, ALIGNMENT) \
    struct alignas(ALIGNMENT) TYPE {                    \
        ELEMENT x, y, z, w;                             \
    };                                                  \
    inline TYPE make_##TYPE(ELEMENT x, ELEMENT y, ELEMENT z, ELEMENT w) { return {x, y, z, w}; }

CUDA_EMULATOR_VECTOR2(int2, int, 8)
CUDA_EMULATOR_VECTOR4(int4, int, 16)
CUDA_EMULATOR_VECTOR2(uint2, unsigned, 8)
CUDA_EMULATOR_VECTOR4(uint4, unsigned, 16)
CUDA_EMULATOR_VECTOR2(float2, float, 8)
CUDA_EMULATOR_VECTOR4(float4, float, 16)
CUDA_EMULATOR_VECTOR2(double2, double, 16)
CUDA_EMULATOR_VECTOR4(double4, double, 16)

struct float3 {
    float x, y, z;
};
inline float3 make_float3(float x, float y, float z) { return {x, y, z}; }
struct int3 {
    int x, y, z;
};
inline int3 make_int3(int x, int y, int z) { return {x, y, z}; }
inline uint3 make_uint3(unsigned x, unsigned y, unsigned z) { return {x, y, z}; }
