// A block's threads take turns. run_block: let every thread that can run go on until it waits or ends; then complete the
// shuffles and votes for which a whole warp has come; then the barrier, if all have; if nobody can go on, say who waits.
#include "scheduler.h"

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <deque>
#include <memory>
#include <numeric>
#include <random>
#include <vector>
#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include "fiber.h"
#include "sanitizers.h"
#include "shared_memory.h"

namespace cuda_emulator {

uint3 thread_index, block_index;
dim3 block_size, grid_size;
const Observer* observer = nullptr;

namespace {

const int WARP_SIZE = 32;

enum class State { ready, at_barrier, in_warp_operation, done };

struct Thread {
    uint3 index;
    State state;
    Fiber* fiber;  // null until it has started
    Place place;   // where it waits
    char* tag;     // what it waits for, for the ThreadSanitizer

    bool predicate;  // at a barrier

    Warp operation;  // in a warp operation
    unsigned mask;
    int source;
    Words value;  // what it brings, then what it gets
};

// The launch that is running. There is one at a time.
struct Launch {
    void (*kernel)(void**);
    void** arguments;
    size_t dynamic_shared_memory;
    uint64_t order;
};

Launch launch;
std::vector<Thread> threads;  // of the running block; the warp of thread t is t / 32
size_t running;               // the thread whose turn it is
int predicates_true;          // of the last block barrier
char* barrier_tag;            // of the next block barrier
std::mt19937_64 generator;
char launch_start, launch_end;  // tags
char message[1024];
bool failed;

// ---- fibers -------------------------------------------------------------------------------------------------------------

std::deque<std::unique_ptr<Fiber>> fibers;
std::vector<Fiber*> unused;  // fibers that have run nothing in this launch
std::deque<Fiber*> idle;     // fibers whose thread of this launch has ended, the last one at the back

void run_threads_forever() {
    for (;;) {
        acquire(&launch_start);
        launch.kernel(launch.arguments);
        release(&launch_end);
        threads[running].state = State::done;
        Fiber::yield();
    }
}

Fiber* new_fiber() {
    fibers.push_back(std::make_unique<Fiber>(run_threads_forever));
    return fibers.back().get();
}

// ThreadSanitizer takes a fiber for one thread, whatever runs on it: what an earlier block did on it happens before what a
// later one does, and so do the things that came before at a barrier. So it overlooks races between blocks that have the
// same fibers. This many blocks get fibers of their own; then each block has those of one earlier block, as a whole. More
// would hide less and take longer: its time grows with the number of fibers.
size_t blocks_with_fibers_of_their_own() { return std::max<size_t>(4, 2048 / threads.size()); }

Fiber* fiber_for_new_thread() {
    size_t used = fibers.size() - unused.size();
    bool use_again = !thread_sanitizer() || used >= blocks_with_fibers_of_their_own() * threads.size();
    Fiber* fiber;
    if (use_again && !idle.empty()) {  // the one that has been idle for longest
        fiber = idle.front();
        idle.pop_front();
    } else if (!unused.empty()) {
        fiber = unused.back();
        unused.pop_back();
    } else {
        fiber = new_fiber();
    }
    return fiber;
}

void all_fibers_are_unused() {
    idle.clear();
    unused.clear();
    for (auto& fiber : fibers) unused.push_back(fiber.get());
}

// After a failed launch: threads stopped half-way, and their fibers with them.
void abandon_fibers() {
    idle.clear();
    unused.clear();
    fibers.clear();
}

// ---- threads ------------------------------------------------------------------------------------------------------------

// For messages: "thread (3, 0, 0)".
struct Name {
    char text[64];
    explicit Name(size_t t) {
        const uint3& i = threads[t].index;
        snprintf(text, sizeof text, "thread (%u, %u, %u)", i.x, i.y, i.z);
    }
};

// "block (0, 1, 0) thread (3, 0, 0)".
struct BlockAndThread {
    char text[128];
    explicit BlockAndThread(size_t t) {
        const uint3& b = block_index;
        snprintf(text, sizeof text, "block (%u, %u, %u) %s", b.x, b.y, b.z, Name(t).text);
    }
};

void run(size_t t) {
    Thread& thread = threads[t];
    running = t;
    thread_index = thread.index;
    if (!thread.fiber) {
        thread.fiber = fiber_for_new_thread();
        if (thread_sanitizer()) thread.fiber->set_name(BlockAndThread(t).text);
    }
    thread.fiber->resume();
    if (observer) observer->thread_stops();
}

// Called on a fiber: lets others run until the scheduler has set the state back to ready.
Thread& wait(State state, Place place, char* tag) {
    Thread& thread = threads[running];
    thread.state = state;
    thread.place = place;
    thread.tag = tag;
    Fiber::yield();
    return thread;
}

bool same_place(const Place& a, const Place& b) {
    return a.line == b.line && (a.file == b.file || strcmp(a.file, b.file) == 0);
}

// ---- warp operations ----------------------------------------------------------------------------------------------------

// Calls action(t) for the threads of a warp that a mask names and that have not ended.
template <class Action>
void for_members(size_t warp_start, unsigned mask, Action action) {
    for (size_t lane = 0; lane < WARP_SIZE && warp_start + lane < threads.size(); lane++)
        if (mask >> lane & 1 && threads[warp_start + lane].state != State::done) action(warp_start + lane);
}

bool same_operation(const Thread& a, const Thread& b) {
    return b.state == State::in_warp_operation && a.operation == b.operation && a.mask == b.mask &&
           same_place(a.place, b.place);
}

unsigned ballot(size_t warp_start, unsigned mask) {
    unsigned bits = 0;
    for_members(warp_start, mask, [&](size_t t) {
        if (threads[t].value.word[0]) bits |= 1u << (t - warp_start);
    });
    return bits;
}

// All members are here: gives each what it gets.
void complete(size_t warp_start, unsigned mask) {
    Words brought[WARP_SIZE];
    bool is_member[WARP_SIZE] = {};
    for_members(warp_start, mask, [&](size_t t) {
        brought[t - warp_start] = threads[t].value;
        is_member[t - warp_start] = true;
    });
    unsigned bits = ballot(warp_start, mask);
    for_members(warp_start, mask, [&](size_t t) {
        Thread& thread = threads[t];
        thread.state = State::ready;
        if (thread.operation == Warp::ballot) thread.value.word[0] = bits;
        if (thread.operation == Warp::shuffle) {
            if (!is_member[thread.source])
                fail("%s:%d: %s reads by shuffle from lane %d, which takes no part: it is not in the mask 0x%08x or has ended",
                     thread.place.file, thread.place.line, Name(t).text, thread.source, mask);
            thread.value = brought[thread.source];
        }
    });
}

bool complete_warp_operations() {
    bool any = false;
    for (size_t t = 0; t < threads.size(); t++) {
        const Thread& thread = threads[t];
        if (thread.state != State::in_warp_operation) continue;
        size_t warp_start = t / WARP_SIZE * WARP_SIZE;
        bool all_here = true;
        for_members(warp_start, thread.mask, [&](size_t u) { all_here &= same_operation(thread, threads[u]); });
        if (!all_here) continue;
        complete(warp_start, thread.mask);
        any = true;
    }
    return any;
}

// Threads that meet in a warp operation share a tag: the first of them brings it.
char* tag_of_warp_operation(const Thread& thread) {
    if (!thread_sanitizer()) return nullptr;
    char* tag = nullptr;
    for_members(running / WARP_SIZE * WARP_SIZE, thread.mask, [&](size_t u) {
        if (u != running && same_operation(thread, threads[u])) tag = threads[u].tag;
    });
    return tag ? tag : fresh_tag();
}

// ---- blocks -------------------------------------------------------------------------------------------------------------

bool run_ready_threads(std::vector<size_t>& order) {
    if (launch.order > 1) std::shuffle(order.begin(), order.end(), generator);
    bool any = false;
    for (size_t t : order) {
        if (failed) return true;
        if (threads[t].state != State::ready) continue;
        run(t);
        any = true;
    }
    return any;
}

size_t count(State state) {
    return std::count_if(threads.begin(), threads.end(), [=](const Thread& thread) { return thread.state == state; });
}

size_t first(State state) {
    return std::find_if(threads.begin(), threads.end(), [=](const Thread& t) { return t.state == state; }) - threads.begin();
}

bool complete_barrier() {
    const Thread& one = threads[0];
    for (const Thread& thread : threads)
        if (thread.state != State::at_barrier || !same_place(thread.place, one.place)) return false;
    predicates_true = 0;
    for (Thread& thread : threads) {
        predicates_true += thread.predicate;
        thread.state = State::ready;
    }
    barrier_tag = fresh_tag();
    return true;
}

// No thread can go on, and some have not ended: says which waits for which.
void explain_deadlock() {
    size_t at_barrier = count(State::at_barrier), done = count(State::done), in_warp = count(State::in_warp_operation);
    if (in_warp) {
        size_t t = first(State::in_warp_operation);
        const Thread& thread = threads[t];
        size_t other = t;
        for_members(t / WARP_SIZE * WARP_SIZE, thread.mask, [&](size_t u) {
            if (!same_operation(thread, threads[u])) other = u;
        });
        const Thread& missing = threads[other];
        fail("%s:%d: %s waits in a warp operation with mask 0x%08x for %s, which waits %s at %s:%d; %zu threads at a barrier, "
             "%zu in warp operations, %zu ended",
             thread.place.file, thread.place.line, Name(t).text, thread.mask, Name(other).text,
             missing.state == State::at_barrier ? "for its block" : "in another warp operation", missing.place.file,
             missing.place.line, at_barrier, in_warp, done);
        return;
    }
    size_t t = first(State::at_barrier);
    const Place here = threads[t].place;
    for (size_t u = 0; u < threads.size(); u++)
        if (threads[u].state == State::at_barrier && !same_place(threads[u].place, here)) {
            fail("%s:%d: barrier divergence: %s waits here, %s at %s:%d", here.file, here.line, Name(t).text, Name(u).text,
                 threads[u].place.file, threads[u].place.line);
            return;
        }
    fail("%s:%d: barrier divergence: %zu threads wait here, first %s; %zu have ended without it, first %s", here.file,
         here.line, at_barrier, Name(t).text, done, Name(first(State::done)).text);
}

uint3 index_of(uint64_t position, dim3 size) {
    return {unsigned(position % size.x), unsigned(position / size.x % size.y), unsigned(position / size.x / size.y)};
}

void run_block(uint64_t block) {
    block_index = index_of(block, grid_size);
    start_shared_memory(launch.dynamic_shared_memory);
    barrier_tag = fresh_tag();
    for (size_t t = 0; t < threads.size(); t++) {
        threads[t] = Thread{};
        threads[t].index = index_of(t, block_size);
    }
    std::vector<size_t> order(threads.size());
    std::iota(order.begin(), order.end(), 0);
    if (launch.order == 1) std::reverse(order.begin(), order.end());
    while (!failed) {
        if (run_ready_threads(order) || complete_warp_operations()) continue;
        if (count(State::done) == threads.size()) break;
        if (!complete_barrier()) explain_deadlock();
    }
    if (failed) return;
    for (Thread& thread : threads) idle.push_back(thread.fiber);
}

void run_blocks(const uint64_t* only, size_t only_count) {
    uint64_t count = only ? only_count : uint64_t(grid_size.x) * grid_size.y * grid_size.z;
    std::vector<uint64_t> shuffled;
    if (launch.order > 1) {
        shuffled.resize(count);
        std::iota(shuffled.begin(), shuffled.end(), 0);
        std::shuffle(shuffled.begin(), shuffled.end(), generator);
    }
    for (uint64_t i = 0; i < count && !failed; i++) {
        uint64_t turn = launch.order == 0 ? i : launch.order == 1 ? count - 1 - i : shuffled[i];
        run_block(only ? only[turn] : turn);
    }
}

// Whether numbers too small for full precision become zero; the emulated threads inherit it.
class Denormals {
  public:
    explicit Denormals(bool flush) {
#if defined(__SSE2__)
        before_ = _mm_getcsr();
        const unsigned flush_results = 0x8000, flush_operands = 0x0040;
        _mm_setcsr(flush ? before_ | flush_results | flush_operands : before_ & ~(flush_results | flush_operands));
#endif
    }
    ~Denormals() {
#if defined(__SSE2__)
        _mm_setcsr(before_);
#endif
    }

  private:
    unsigned before_ = 0;
};

}  // namespace

void fail(const char* format, ...) {
    if (!failed) {
        failed = true;
        const uint3& b = block_index;
        int length = snprintf(message, sizeof message, "block (%u, %u, %u): ", b.x, b.y, b.z);
        va_list values;
        va_start(values, format);
        vsnprintf(message + length, sizeof message - length, format, values);
        va_end(values);
    }
    if (Fiber::running()) Fiber::yield();  // for ever: nobody resumes it
}

char* fresh_tag() {
    static char tags[1 << 20];
    static size_t next = 0;
    next = (next + 8) % sizeof tags;
    return tags + next;
}

int block_barrier(bool predicate, Place place) {
    threads[running].predicate = predicate;
    release(barrier_tag);
    Thread& thread = wait(State::at_barrier, place, barrier_tag);
    acquire(thread.tag);
    if (observer) observer->block_barrier(place);
    return predicates_true;
}

Words warp_operation(Warp kind, unsigned mask, Words value, int source, Place place) {
    Thread& thread = threads[running];
    if (!(mask >> running % WARP_SIZE & 1))
        fail("%s:%d: %s is not in its own warp mask 0x%08x", place.file, place.line, Name(running).text, mask);
    thread.operation = kind;
    thread.mask = mask;
    thread.source = source;
    thread.value = value;
    thread.place = place;
    char* tag = tag_of_warp_operation(thread);
    // Only __syncwarp() orders accesses to memory. Shuffles and votes, CUDA's manual says, imply no memory barrier.
    if (kind == Warp::barrier) release(tag);
    wait(State::in_warp_operation, place, tag);
    if (kind == Warp::barrier) acquire(thread.tag);
    if (observer) observer->warp_operation(kind, place, thread.value, source);
    return thread.value;
}

}  // namespace cuda_emulator

// ---- what Python calls --------------------------------------------------------------------------------------------------

extern "C" const char* cuda_emulator_error() { return cuda_emulator::message; }

// Returns 0, or 1 if the launch failed and cuda_emulator_error() says why. `only`: the blocks to run, or null for all.
extern "C" int cuda_emulator_launch(
    void (*kernel)(void**), void** arguments, const unsigned grid[3], const unsigned block[3], size_t shared_bytes,
    uint64_t order, int flush_denormals, const uint64_t* only, size_t only_count) {
    using namespace cuda_emulator;
    Denormals denormals(flush_denormals);
    launch = {kernel, arguments, shared_bytes, order};
    grid_size = {grid[0], grid[1], grid[2]};
    block_size = {block[0], block[1], block[2]};
    threads.resize(size_t(block[0]) * block[1] * block[2]);
    generator.seed(order);
    failed = false;
    all_fibers_are_unused();
    release(&launch_start);
    run_blocks(only, only_count);
    acquire(&launch_end);
    forget_shared_memory();
    if (failed) abandon_fibers();
    return failed;
}
