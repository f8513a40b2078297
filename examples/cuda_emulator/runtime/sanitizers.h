// What the sanitizers of g++ must be told about fibers. The symbols are weak: null in a process without the sanitizer.
#pragma once
#include <cstddef>

extern "C" {
__attribute__((weak)) void __sanitizer_start_switch_fiber(void** fake_stack, const void* bottom, size_t size);
__attribute__((weak)) void __sanitizer_finish_switch_fiber(void* fake_stack, const void** bottom, size_t* size);
__attribute__((weak)) void* __tsan_get_current_fiber();
__attribute__((weak)) void* __tsan_create_fiber(unsigned flags);
__attribute__((weak)) void __tsan_set_fiber_name(void* fiber, const char* name);
__attribute__((weak)) void __tsan_switch_to_fiber(void* fiber, unsigned flags);
__attribute__((weak)) void __tsan_acquire(void* tag);
__attribute__((weak)) void __tsan_release(void* tag);
}

namespace cuda_emulator {

inline bool thread_sanitizer() { return __tsan_create_fiber != nullptr; }
inline bool address_sanitizer() { return __sanitizer_start_switch_fiber != nullptr && !thread_sanitizer(); }

// For ThreadSanitizer all that ran before `release(tag)` happens before what runs after `acquire(tag)`. This is the only
// order it knows of: emulated threads take turns on one thread of the machine, but it sees each as a thread of its own.
inline void release(void* tag) {
    if (thread_sanitizer()) __tsan_release(tag);
}
inline void acquire(void* tag) {
    if (thread_sanitizer()) __tsan_acquire(tag);
}

}  // namespace cuda_emulator
