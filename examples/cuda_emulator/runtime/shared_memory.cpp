#include "shared_memory.h"

#include <cstdlib>
#include <cstring>
#include <deque>
#include <vector>

#include "fiber.h"
#include "sanitizers.h"
#include "scheduler.h"

namespace cuda_emulator {

namespace {

const size_t LIMIT = 48 * 1024;  // of a block, on every device, unless a launch asks for more in a way of its own
const size_t ALIGNMENT = 128;

std::deque<SharedVariable> variables;       // of all kernels, by id; a deque, so that pointers to them stay valid
std::vector<SharedVariable*> of_the_block;  // those that the running block has used
SharedVariable dynamic{{"dynamic shared memory", 'u', 1, {}}, 0};
std::vector<void*> to_be_freed;
char* start_of_block;  // a tag: all threads of a block see its shared memory poisoned

// Every block gets memory that no other block had before, filled with bytes 0xff: NaN as float and as double, -1 as int.
// On a device it holds whatever the last block left there.
char* allocate(size_t bytes) {
    void* memory = nullptr;
    if (posix_memalign(&memory, ALIGNMENT, bytes)) abort();
    memset(memory, 0xff, bytes);
    return static_cast<char*>(memory);
}

// ThreadSanitizer takes free() for a write by the thread that calls it, and the same address used by two blocks for
// communication between them. So all memory lives until the end of the launch.
void discard(char* memory) {
    if (thread_sanitizer())
        to_be_freed.push_back(memory);
    else
        free(memory);
}

void allocate(SharedVariable& variable) {
    size_t total = variable.bytes + dynamic.bytes;
    for (SharedVariable* other : of_the_block) total += other->bytes;
    if (total > LIMIT) fail("%zu bytes of shared memory with %s; a block has %zu", total, variable.type.name, LIMIT);
    variable.memory = allocate(variable.bytes);
    of_the_block.push_back(&variable);
}

bool contains(const SharedVariable& variable, const void* address) {
    return variable.memory && address >= variable.memory && address < variable.memory + variable.bytes;
}

}  // namespace

void start_shared_memory(size_t dynamic_bytes) {
    for (SharedVariable* variable : of_the_block) {
        discard(variable->memory);
        variable->memory = nullptr;
    }
    of_the_block.clear();
    if (dynamic.memory) discard(dynamic.memory);
    dynamic.bytes = dynamic_bytes;
    dynamic.memory = dynamic_bytes ? allocate(dynamic_bytes) : nullptr;
    start_of_block = fresh_tag();
    release(start_of_block);
}

void forget_shared_memory() {
    start_shared_memory(0);
    for (void* memory : to_be_freed) free(memory);
    to_be_freed.clear();
}

void* shared_variable(int* id, SharedType type, size_t bytes) {
    if (*id < 0) {
        *id = int(variables.size());
        variables.push_back({type, bytes});
    }
    SharedVariable& variable = variables[*id];
    if (!variable.memory) {
        Fiber::as_resumer([&] {
            allocate(variable);
            release(start_of_block);
        });
    }
    acquire(start_of_block);
    return variable.memory;
}

void* dynamic_shared_memory(SharedType type) {
    dynamic.type = type;
    acquire(start_of_block);
    return dynamic.memory;
}

const SharedVariable* shared_variable_at(const void* address) {
    for (const SharedVariable* variable : of_the_block)
        if (contains(*variable, address)) return variable;
    return contains(dynamic, address) ? &dynamic : nullptr;
}

}  // namespace cuda_emulator
