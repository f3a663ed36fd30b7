/* allocator.c - keeps large blocks that libraries free, and refuses absurd ones (allocator.h). Main thread at load,
 * workers at their start, loader; any thread whenever jemalloc needs memory from the kernel.
 *
 * Where redis-server is linked with the system's jemalloc (Debian, Ubuntu), libraries allocate from it too. jemalloc
 * returns freed blocks of 8 MiB and more to the kernel at once, and PyTorch allocates its results anew in each run. So
 * MobileNetV2 in batches of 16 spent its time in page faults: 29 images a second instead of 108. Kept for KEEP_MS, the
 * blocks serve the next run. Redis's own large values gain too.
 *
 * jemalloc also asks for memory in a way that the kernel never refuses. A model's 12 TB were granted, and the process
 * ended once it wrote to them. So a block of more than half of the machine's memory is refused here. Nothing that Redis
 * stores is as large.
 *
 * Servers with a jemalloc of their own (its functions have other names) leave libraries to the C library's malloc. */
#include "engine/allocator.h"

#include <dlfcn.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/types.h>
#include <unistd.h>

#define LARGE ((size_t)16 << 20)
#define KEEP_MS 60000

static unsigned large_arena; /* where blocks of 8 MiB and more come from, except in workers */

static int (*mallctl)(const char *name, void *old, size_t *old_size, void *new,
                      size_t new_size); /* NULL: no jemalloc */

/* jemalloc's table of functions, of which we replace the first. */
typedef struct ExtentHooks ExtentHooks;
struct ExtentHooks {
    void *(*alloc)(ExtentHooks *hooks, void *at, size_t size, size_t alignment, bool *zero, bool *commit,
                   unsigned arena);
    void *others[8];
};
static ExtentHooks *theirs, ours;

static void *alloc_if_possible(ExtentHooks *hooks, void *at, size_t size, size_t alignment, bool *zero, bool *commit,
                               unsigned arena) {
    if (size / sysconf(_SC_PAGESIZE) > (size_t)sysconf(_SC_PHYS_PAGES) / 2) return NULL;
    return theirs->alloc(theirs, at, size, alignment, zero, commit, arena);
}

static void set(unsigned arena, const char *what, void *value, size_t size) {
    char name[64];
    snprintf(name, sizeof(name), "arena.%u.%s", arena, what);
    mallctl(name, NULL, NULL, value, size); /* an older jemalloc fails here, and needs it less */
}

/* jemalloc returns larger blocks than this threshold at once, whatever the decay. No block reaches 1 TiB. */
static void prepare_arena(unsigned arena) {
    size_t threshold = (size_t)1 << 40;
    set(arena, "oversize_threshold", &threshold, sizeof(threshold));
    ExtentHooks *hooks = &ours;
    if (theirs) set(arena, "extent_hooks", &hooks, sizeof(hooks));
}

/* Arenas that nobody has changed all have the same table. */
static void find_hooks(unsigned arena) {
    char name[64];
    size_t size = sizeof(theirs);
    snprintf(name, sizeof(name), "arena.%u.extent_hooks", arena);
    if (mallctl(name, &theirs, &size, NULL, 0)) return;
    ours = *theirs;
    ours.alloc = alloc_if_possible;
}

void allocator_init(void) {
    void *found = dlsym(RTLD_DEFAULT, "mallctl");
    Dl_info jemalloc, used;
    if (found == NULL || !dladdr(found, &jemalloc) || !dladdr(dlsym(RTLD_DEFAULT, "malloc"), &used)) return;
    if (jemalloc.dli_fbase != used.dli_fbase) return; /* jemalloc is loaded, but malloc() is another one */
    *(void **)&mallctl = found;

    void *volatile large = malloc(LARGE); /* creates the arena for large blocks */
    void *block = large;
    size_t size = sizeof(large_arena);
    if (large && mallctl("arenas.lookup", &large_arena, &size, &block, sizeof(block)) == 0) {
        ssize_t keep = KEEP_MS;
        set(large_arena, "dirty_decay_ms", &keep, sizeof(keep));
        find_hooks(large_arena);
        prepare_arena(large_arena);
    }
    free(large);
}

void allocator_release(void) {
    if (mallctl) set(large_arena, "purge", NULL, 0);
}

void allocator_prepare_thread(void) {
    unsigned arena;
    size_t size = sizeof(arena);
    if (mallctl && mallctl("thread.arena", &arena, &size, NULL, 0) == 0) prepare_arena(arena);
}
