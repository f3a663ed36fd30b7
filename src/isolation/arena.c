/* arena.c - shared memory in blocks (arena.h).
 *
 * Sizes are rounded up to one of four classes for each power of two, so a block wastes a fifth at most. Freed blocks
 * wait in a list of their class. They are never joined: what runs here asks for the same sizes again and again. */
#include "isolation/arena.h"

#include <sys/mman.h>

#include "redis/api.h"

#define SMALLEST 256
#define KEPT (32ULL << 20) /* larger blocks give their pages back */

/* The class of a size. Rounds the size up to what blocks of the class have; 0 where that overflows. */
static int class_of(uint64_t *size) {
    if (*size < SMALLEST) *size = SMALLEST;
    if (*size > 1ULL << 46) *size = 0;
    if (*size == 0) return 0;
    int power = 63 - __builtin_clzll(*size - 1); /* 2^power < size <= 2^(power + 1), or size is SMALLEST */
    uint64_t step = 1ULL << (power - 2);
    *size = (*size + step - 1) / step * step;
    return (power - 7) * 4 + (int)((*size - (1ULL << power)) / step) - 1;
}

void arena_init(Arena *arena, char *base, uint64_t size) { *arena = (Arena){.base = base, .size = size}; }

char *arena_alloc(Arena *arena, uint64_t size, uint64_t *offset) {
    int class = class_of(&size);
    if (size == 0) return NULL;
    struct ArenaList *list = &arena->lists[class];
    if (list->count) {
        *offset = list->free[--list->count];
    } else if (size <= arena->size - arena->used) {
        *offset = arena->used;
        arena->used += size;
    } else {
        return NULL;
    }
    return arena->base + *offset;
}

void arena_free(Arena *arena, uint64_t offset, uint64_t size) {
    struct ArenaList *list = &arena->lists[class_of(&size)];
    if (size > KEPT) {
        uint64_t from = (offset + 4095) & ~4095ULL, to = (offset + size) & ~4095ULL;
        madvise(arena->base + from, to - from, MADV_REMOVE);
    }
    if (list->count == list->capacity) {
        list->capacity = list->capacity ? list->capacity * 2 : 16;
        list->free = RedisModule_Realloc(list->free, list->capacity * sizeof(*list->free));
    }
    list->free[list->count++] = offset;
}

void arena_reset(Arena *arena) {
    arena->used = 0;
    for (int i = 0; i < ARENA_CLASSES; i++) arena->lists[i].count = 0;
}
