// Runs the blocks and threads of a launch, one after another, on the one thread that called.
#pragma once
#include "interface.h"

namespace cuda_emulator {

// Ends the launch with this message, as of printf(). Only the first one counts. On a fiber it does not return.
__attribute__((format(printf, 1, 2))) void fail(const char* format, ...);

// An address for release() and acquire() that nothing was released to for a long time.
char* fresh_tag();

// Told what the running thread does; null unless a trace is being taken.
struct Observer {
    void (*thread_stops)();  // the running thread waits, or has ended
    void (*block_barrier)(Place place);
    void (*warp_operation)(Warp kind, Place place, Words result, int source);
};
extern const Observer* observer;

}  // namespace cuda_emulator
