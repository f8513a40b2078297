#include "fiber.h"

#include <sys/mman.h>

#include <cstdint>
#include <new>

#include "sanitizers.h"

namespace cuda_emulator {

namespace {
Fiber* current = nullptr;
void* resumer_thread = nullptr;  // as ThreadSanitizer knows it
const void* resumer_stack = nullptr;
size_t resumer_stack_size = 0;
}  // namespace

#if defined(__x86_64__) && !defined(CUDA_EMULATOR_UCONTEXT)

// Pushes the registers that a function must preserve, leaves the stack pointer in *from, takes `to` for stack pointer and
// pops the registers from there: 20 ns, where swapcontext() takes ten times as long for its two system calls.
extern "C" void cuda_emulator_switch(void** from, void* to);
asm(R"(
.text
.hidden cuda_emulator_switch
.globl cuda_emulator_switch
.type cuda_emulator_switch, @function
cuda_emulator_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size cuda_emulator_switch, . - cuda_emulator_switch
)");

namespace {

using Context = void*;
Context resumer_context;

void prepare(Context& context, char* stack, size_t size, void (*function)()) {
    void** top = reinterpret_cast<void**>(stack + size - 64);  // 64: keeps what `function` sees aligned as after a call
    *--top = nullptr;                                          // its return address: there is nowhere to return to
    *--top = reinterpret_cast<void*>(function);
    for (int i = 0; i < 6; i++) *--top = nullptr;  // the six registers
    context = top;
}

void switch_context(Context& from, Context& to) { cuda_emulator_switch(&from, to); }

}  // namespace

#else  // another processor: slower, but the C library knows how

namespace {

using Context = ucontext_t;
Context resumer_context;

void prepare(Context& context, char* stack, size_t size, void (*function)()) {
    getcontext(&context);
    context.uc_stack.ss_sp = stack;
    context.uc_stack.ss_size = size;
    context.uc_link = nullptr;
    makecontext(&context, function, 0);
}

void switch_context(Context& from, Context& to) { swapcontext(&from, &to); }

}  // namespace

#endif

Fiber::Fiber(void (*body)()) : body_(body) {
    void* memory = mmap(nullptr, GUARD + STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    mprotect(memory, GUARD, PROT_NONE);
    memory_ = static_cast<char*>(memory);
    prepare(context_, memory_ + GUARD, STACK, enter);
    if (thread_sanitizer()) sanitizer_thread_ = __tsan_create_fiber(0);
}

Fiber::~Fiber() { munmap(memory_, GUARD + STACK); }

void Fiber::set_name(const char* name) {
    if (thread_sanitizer()) __tsan_set_fiber_name(sanitizer_thread_, name);
}

Fiber* Fiber::running() { return current; }

bool Fiber::owns(const void* address) const {
    return address >= memory_ && address < memory_ + GUARD + STACK;
}

void Fiber::use_thread(const Fiber* fiber) {
    if (!thread_sanitizer()) return;
    const unsigned no_synchronisation = 1;  // a switch is no reason for anything to happen before anything else
    void* thread = fiber ? fiber->sanitizer_thread_ : resumer_thread;
    __tsan_switch_to_fiber(thread, no_synchronisation);
}

void Fiber::resume() {
    void* fake_stack = nullptr;
    current = this;
    if (thread_sanitizer()) resumer_thread = __tsan_get_current_fiber();
    if (address_sanitizer()) __sanitizer_start_switch_fiber(&fake_stack, memory_ + GUARD, STACK);
    use_thread(this);
    switch_context(resumer_context, context_);
    if (address_sanitizer()) __sanitizer_finish_switch_fiber(fake_stack, nullptr, nullptr);
    current = nullptr;
}

void Fiber::yield() {
    Fiber* fiber = current;
    use_thread(nullptr);
    if (address_sanitizer())
        __sanitizer_start_switch_fiber(&fiber->fake_stack_, resumer_stack, resumer_stack_size);
    switch_context(fiber->context_, resumer_context);
    if (address_sanitizer())
        __sanitizer_finish_switch_fiber(fiber->fake_stack_, &resumer_stack, &resumer_stack_size);
}

void Fiber::enter() {
    if (address_sanitizer()) __sanitizer_finish_switch_fiber(nullptr, &resumer_stack, &resumer_stack_size);
    current->body_();
}

}  // namespace cuda_emulator
