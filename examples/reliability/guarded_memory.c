/* malloc with a page behind (or before) each block that nobody may touch: LD_PRELOAD it, then guard(1) or guard(-1).
   A read or write one vector beyond a block is then a segmentation fault, in compiled loops too, and so is one of a
   block that was freed. Blocks end on 16 bytes, so what lies less than that behind the end is not seen. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>

extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);
extern void __libc_free(void *);

enum { PAGE = 4096, SMALLEST = 32 };
static const size_t ARENA = (size_t)1 << 36;
static char *arena;                 /* addresses are given out once, from the front to the back */
static size_t *sizes;               /* of the block whose first page it is */
static size_t next_page, blocks;
static __thread int side;           /* of the guard: 1 behind, -1 before, 0 none */

void guard(int new_side) { side = new_side; }
size_t guarded_blocks(void) { return blocks; }

static int is_guarded(void *block) { return arena && (char *)block >= arena && (char *)block < arena + ARENA; }

static void *guarded(size_t size, size_t alignment) {
    if (!arena) {
        char *memory = mmap(0, ARENA, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        sizes = mmap(0, ARENA / PAGE * sizeof *sizes, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (memory == MAP_FAILED || sizes == MAP_FAILED) return 0;
        arena = memory;
    }
    size_t pages = (size + PAGE - 1) / PAGE;
    size_t first = __atomic_fetch_add(&next_page, pages + 1, __ATOMIC_RELAXED) + 1;   /* the page before stays closed */
    if ((first + pages + 1) * PAGE > ARENA) return 0;
    char *memory = arena + first * PAGE;
    if (mprotect(memory, pages * PAGE, PROT_READ | PROT_WRITE)) return 0;
    sizes[first] = size;
    __atomic_fetch_add(&blocks, 1, __ATOMIC_RELAXED);
    return side > 0 ? memory + (pages * PAGE - size) / alignment * alignment : memory;
}

void *malloc(size_t size) {
    void *block = side && size >= SMALLEST ? guarded(size, 16) : 0;
    return block ? block : __libc_malloc(size);
}

void *calloc(size_t count, size_t size) {
    void *block = side && count && size && size <= SIZE_MAX / count && count * size >= SMALLEST
        ? guarded(count * size, 16) : 0;      /* fresh pages are zero */
    return block ? block : __libc_calloc(count, size);
}

void *memalign(size_t alignment, size_t size) {
    void *block = side && size >= SMALLEST && alignment <= PAGE ? guarded(size, alignment > 16 ? alignment : 16) : 0;
    return block ? block : __libc_memalign(alignment, size);
}

void *aligned_alloc(size_t alignment, size_t size) { return memalign(alignment, size); }

int posix_memalign(void **block, size_t alignment, size_t size) {
    return (*block = memalign(alignment, size)) ? 0 : ENOMEM;
}

void free(void *block) {
    if (!is_guarded(block)) { __libc_free(block); return; }
    size_t first = ((char *)block - arena) / PAGE, length = (sizes[first] + PAGE - 1) / PAGE * PAGE;
    mmap(arena + first * PAGE, length, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
}

void *realloc(void *block, size_t size) {
    if (!is_guarded(block)) return __libc_realloc(block, size);
    void *moved = malloc(size);
    size_t old = sizes[((char *)block - arena) / PAGE];
    if (moved) { memcpy(moved, block, old < size ? old : size); free(block); }
    return moved;
}

