// Fibers: functions, each with a stack of its own, that can stop half-way and be taken up again later.
#pragma once
#include <cstddef>
#if !defined(__x86_64__) || defined(CUDA_EMULATOR_UCONTEXT)
#include <ucontext.h>
#endif

namespace cuda_emulator {

class Fiber {
  public:
    explicit Fiber(void (*body)());  // `body` must not return
    Fiber(const Fiber&) = delete;
    ~Fiber();

    void resume();        // runs the fiber until it yields
    static void yield();  // called on a fiber: goes back to whoever resumed it

    // For reports of ThreadSanitizer.
    void set_name(const char* name);

    // The fiber that is running, or null.
    static Fiber* running();
    bool owns(const void* address) const;

    // Runs `action` so that ThreadSanitizer takes what it does for the resumer's doing, not for the fiber's.
    template <class Action>
    static void as_resumer(Action action);

  private:
    static const size_t STACK = 256 * 1024;
    static const size_t GUARD = 4096;  // a page below the stack that faults, so that an overflow is no silent corruption

    static void enter();
    static void use_thread(const Fiber* fiber);  // null: the resumer

    void (*body_)();
    char* memory_;
    void* sanitizer_thread_ = nullptr;  // as which ThreadSanitizer knows the fiber
    void* fake_stack_ = nullptr;        // AddressSanitizer's
#if defined(__x86_64__) && !defined(CUDA_EMULATOR_UCONTEXT)
    void* context_;  // the stack pointer; the registers lie on the stack
#else
    ucontext_t context_;
#endif
};

template <class Action>
void Fiber::as_resumer(Action action) {
    Fiber* fiber = running();
    use_thread(nullptr);
    action();
    use_thread(fiber);
}

}  // namespace cuda_emulator
