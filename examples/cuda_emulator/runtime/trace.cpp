// Every access to memory of one chosen thread, in order. g++ -fsanitize=thread calls a function before each access, for
// ThreadSanitizer to check; kernels built for a trace are linked with the functions below in its place.
#include <dlfcn.h>

#include <cstdint>
#include <cstring>
#include <vector>

#include "fiber.h"
#include "interface.h"
#include "scheduler.h"
#include "shared_memory.h"

namespace cuda_emulator {
namespace {

enum Kind : int32_t { READ, WRITE, BLOCK_BARRIER, WARP_BARRIER, VOTE, SHUFFLE };

const int CALLS = 6;

// Python knows this structure too (trace.py).
struct Step {
    Kind kind;
    int32_t size;              // bytes that were read or written, or shuffled
    char type;                 // f i u b, of a shared variable or what was shuffled
    int32_t element_bytes;     // of a shared variable
    int32_t source;            // lane of a shuffle
    uint32_t extents[3];       // of a shared variable
    const char* variable;      // in shared memory, or null
    uint64_t address;          // within the variable, if there is one
    uint64_t value[2];         // what was read, written or received: the first 16 bytes
    uint64_t program_counters[CALLS];  // of the access, of the call to the function that it is in, and so on; then 0
};

std::vector<Step> steps;
uint64_t chosen_block, chosen_thread;
std::vector<const void*> calls;  // of the chosen thread, the innermost last
const void* written = nullptr;   // by the last step, if it is a write: only the next event sees the value

uint64_t position(uint3 index, dim3 size) { return index.x + uint64_t(size.x) * (index.y + uint64_t(size.y) * index.z); }

bool is_chosen() {
    return observer && Fiber::running() && position(thread_index, block_size) == chosen_thread &&
           position(block_index, grid_size) == chosen_block;
}

bool is_own_variable(const void* address) {
    const void* own[] = {&thread_index, &block_index, &block_size, &grid_size};
    for (const void* variable : own)
        if (address >= variable && address < static_cast<const char*>(variable) + sizeof(uint3)) return true;
    return false;
}

void copy_value(Step& step, const void* address) {
    memcpy(step.value, address, step.size < int(sizeof step.value) ? step.size : sizeof step.value);
}

void finish_write() {
    if (written) copy_value(steps.back(), written);
    written = nullptr;
}

void add_calls(Step& step, const void* program_counter) {
    step.program_counters[0] = uint64_t(program_counter);
    for (size_t i = 0; i + 1 < CALLS && i < calls.size(); i++)
        step.program_counters[i + 1] = uint64_t(calls[calls.size() - 1 - i]);
}

void access(Kind kind, const void* address, size_t size, const void* program_counter) {
    if (!is_chosen()) return;
    finish_write();
    if (Fiber::running()->owns(address) || is_own_variable(address)) return;  // local variables
    Step step = {};
    step.kind = kind;
    step.size = int32_t(size);
    step.address = uint64_t(address);
    if (const SharedVariable* variable = shared_variable_at(address)) {
        step.variable = variable->type.name;
        step.type = variable->type.kind;
        step.element_bytes = int32_t(variable->type.element_bytes);
        memcpy(step.extents, variable->type.extents, sizeof step.extents);
        step.address -= uint64_t(variable->memory);
    }
    add_calls(step, program_counter);
    if (kind == READ)
        copy_value(step, address);
    else
        written = address;
    steps.push_back(step);
}

void thread_stops() { finish_write(); }

void add_collective(Step step) {
    if (!is_chosen()) return;
    finish_write();
    add_calls(step, nullptr);
    steps.push_back(step);
}

void block_barrier_passed(Place) {
    Step step = {};
    step.kind = BLOCK_BARRIER;
    add_collective(step);
}

void warp_operation_passed(Warp kind, Place, Words result, int source) {
    Step step = {};
    step.kind = kind == Warp::barrier ? WARP_BARRIER : kind == Warp::ballot ? VOTE : SHUFFLE;
    step.size = int32_t(result.bytes);
    step.type = result.kind;
    step.source = source;
    memcpy(step.value, result.word, sizeof step.value);
    add_collective(step);
}

const Observer recorder = {thread_stops, block_barrier_passed, warp_operation_passed};

}  // namespace
}  // namespace cuda_emulator

#define EXPORTED extern "C" __attribute__((visibility("default")))

EXPORTED void cuda_emulator_trace_start(uint64_t block, uint64_t thread) {
    using namespace cuda_emulator;
    steps.clear();
    calls.clear();
    written = nullptr;
    chosen_block = block;
    chosen_thread = thread;
    observer = &recorder;
}

EXPORTED size_t cuda_emulator_trace_stop(const void** first) {
    using namespace cuda_emulator;
    observer = nullptr;
    *first = steps.data();
    return steps.size();
}

// Where this library, with the kernels in it, was loaded.
EXPORTED uint64_t cuda_emulator_trace_base() {
    Dl_info information = {};
    dladdr(reinterpret_cast<void*>(cuda_emulator_trace_base), &information);
    return uint64_t(information.dli_fbase);
}

// ---- what the compiler calls --------------------------------------------------------------------------------------------

#define CALLER __builtin_return_address(0)

#define HOOKS(SIZE)                                                                                                    \
    extern "C" void __tsan_read##SIZE(void* address) { cuda_emulator::access(cuda_emulator::READ, address, SIZE, CALLER); }   \
    extern "C" void __tsan_write##SIZE(void* address) { cuda_emulator::access(cuda_emulator::WRITE, address, SIZE, CALLER); }

HOOKS(1)
HOOKS(2)
HOOKS(4)
HOOKS(8)
HOOKS(16)

#define UNALIGNED_HOOKS(SIZE)                                                         \
    extern "C" void __tsan_unaligned_read##SIZE(void* address) {                      \
        cuda_emulator::access(cuda_emulator::READ, address, SIZE, CALLER);            \
    }                                                                                 \
    extern "C" void __tsan_unaligned_write##SIZE(void* address) {                     \
        cuda_emulator::access(cuda_emulator::WRITE, address, SIZE, CALLER);           \
    }

UNALIGNED_HOOKS(2)
UNALIGNED_HOOKS(4)
UNALIGNED_HOOKS(8)
UNALIGNED_HOOKS(16)

extern "C" void __tsan_read_range(void* address, size_t size) {
    cuda_emulator::access(cuda_emulator::READ, address, size, CALLER);
}
extern "C" void __tsan_write_range(void* address, size_t size) {
    cuda_emulator::access(cuda_emulator::WRITE, address, size, CALLER);
}
extern "C" void __tsan_func_entry(void* caller) {
    if (cuda_emulator::is_chosen()) cuda_emulator::calls.push_back(caller);
}
extern "C" void __tsan_func_exit() {
    if (cuda_emulator::is_chosen() && !cuda_emulator::calls.empty()) cuda_emulator::calls.pop_back();
}
extern "C" void __tsan_init() {}
extern "C" void __tsan_vptr_update(void**, void*) {}
