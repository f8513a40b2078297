// What kernels, built by cuda_language.h, ask of the scheduler, which runs them.
#pragma once
#include <cstddef>
#include <cstdint>

struct uint3 {
    unsigned x, y, z;
};
struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

namespace cuda_emulator {

// A line of the kernel's source, for messages.
struct Place {
    const char* file;
    int line;
};

// A value on its way between the threads of a warp: up to 16 bytes, passed by value, so that the scheduler, which
// ThreadSanitizer must not see at work, never copies from or to a thread's memory.
struct Words {
    uint64_t word[2];
    char kind;  // f i u b: what it is, for traces
    size_t bytes;
};

enum class Warp { barrier, ballot, shuffle };

// The index of the running thread; the scheduler sets it whenever it goes from one thread to another.
extern uint3 thread_index, block_index;
extern dim3 block_size, grid_size;

// Waits until all threads of the block are here; returns how many of them came with a true predicate.
int block_barrier(bool predicate, Place place);

// Waits until all threads of the warp named in `mask` are here. A ballot returns the bits of those that came with a value
// other than 0; a shuffle returns the value that lane `source` brought.
Words warp_operation(Warp kind, unsigned mask, Words value, int source, Place place);

// A shared variable as its declaration says, for messages and traces.
struct SharedType {
    const char* name;
    char kind;             // of an element: f i u b, or V for a structure
    size_t element_bytes;
    unsigned extents[3];   // 0 where it has no more axes
};

// A __shared__ variable of the running block. `id` is a number for each variable of the source, -1 until its first use.
void* shared_variable(int* id, SharedType type, size_t bytes);
void* dynamic_shared_memory(SharedType type);

}  // namespace cuda_emulator
