// Atomic operations, for the types that CUDA has them for. Each returns the value from before.
#pragma once

namespace cuda_emulator {

// Emulated threads never run at the same time, so a plain read, change and write is atomic. ThreadSanitizer must be shown
// a real atomic operation, though: it takes every emulated thread for a thread of the machine.
template <class T, class Change>
inline T atomically(T* address, Change change) {
#if defined(__SANITIZE_THREAD__) && !defined(CUDA_EMULATOR_TRACE)
    T before, after;
    __atomic_load(address, &before, __ATOMIC_RELAXED);
    do
        after = change(before);
    while (!__atomic_compare_exchange(address, &before, &after, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
    return before;
#else
    T before = *address;
    *address = change(before);
    return before;
#endif
}

}  // namespace cuda_emulator

#define CUDA_EMULATOR_ATOMIC(NAME, TYPE, AFTER)                                                  \
    inline TYPE NAME(TYPE* address, TYPE value) {                                                \
        return cuda_emulator::atomically(address, [value](TYPE before) -> TYPE { return AFTER; }); \
    }

#define CUDA_EMULATOR_ATOMIC_INTEGERS(NAME, AFTER) \
    CUDA_EMULATOR_ATOMIC(NAME, int, AFTER)         \
    CUDA_EMULATOR_ATOMIC(NAME, unsigned, AFTER)    \
    CUDA_EMULATOR_ATOMIC(NAME, unsigned long long, AFTER)

CUDA_EMULATOR_ATOMIC_INTEGERS(atomicAdd, before + value)
CUDA_EMULATOR_ATOMIC(atomicAdd, float, before + value)
CUDA_EMULATOR_ATOMIC(atomicAdd, double, before + value)

CUDA_EMULATOR_ATOMIC(atomicSub, int, before - value)
CUDA_EMULATOR_ATOMIC(atomicSub, unsigned, before - value)

CUDA_EMULATOR_ATOMIC_INTEGERS(atomicExch, (void(before), value))
CUDA_EMULATOR_ATOMIC(atomicExch, float, (void(before), value))

CUDA_EMULATOR_ATOMIC_INTEGERS(atomicMax, before > value ? before : value)
CUDA_EMULATOR_ATOMIC(atomicMax, long long, before > value ? before : value)
CUDA_EMULATOR_ATOMIC_INTEGERS(atomicMin, before < value ? before : value)
CUDA_EMULATOR_ATOMIC(atomicMin, long long, before < value ? before : value)

CUDA_EMULATOR_ATOMIC_INTEGERS(atomicAnd, before & value)
CUDA_EMULATOR_ATOMIC_INTEGERS(atomicOr, before | value)
CUDA_EMULATOR_ATOMIC_INTEGERS(atomicXor, before ^ value)

#define CUDA_EMULATOR_ATOMIC_CAS(TYPE)                                                                             \
    inline TYPE atomicCAS(TYPE* address, TYPE expected, TYPE value) {                                              \
        return cuda_emulator::atomically(address, [=](TYPE before) { return before == expected ? value : before; }); \
    }

CUDA_EMULATOR_ATOMIC_CAS(int)
CUDA_EMULATOR_ATOMIC_CAS(unsigned)
CUDA_EMULATOR_ATOMIC_CAS(unsigned long long)
