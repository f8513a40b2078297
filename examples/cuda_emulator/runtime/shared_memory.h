// The shared memory of the block that runs.
#pragma once
#include <cstddef>

#include "interface.h"

namespace cuda_emulator {

struct SharedVariable {
    SharedType type;
    size_t bytes;
    char* memory = nullptr;  // null until the running block has used it
};

void start_shared_memory(size_t dynamic_bytes);  // of a new block: nothing of the last block's is left
void forget_shared_memory();                     // after a launch

// The variable that an address lies in, or null.
const SharedVariable* shared_variable_at(const void* address);

}  // namespace cuda_emulator
