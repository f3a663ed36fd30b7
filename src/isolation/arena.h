/* arena.h - memory that the server and an engine process share, given out in blocks.
 *
 * Each process gives out blocks of a stretch of its own, and keeps its records in private memory: what the other
 * process writes into the stretch cannot harm them. Not locked: the caller has a lock. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#define ARENA_CLASSES 160

typedef struct Arena {
    char *base;
    uint64_t size; /* of the stretch */
    uint64_t used; /* blocks beyond this have never been given out */
    struct ArenaList {
        uint64_t *free; /* offsets */
        uint64_t count, capacity;
    } lists[ARENA_CLASSES];
} Arena;

void arena_init(Arena *arena, char *base, uint64_t size);

/* At least so many bytes, aligned to 64, with *offset from base. NULL: none left. */
char *arena_alloc(Arena *arena, uint64_t size, uint64_t *offset);

/* size as it was asked for. Memory of large blocks goes back to the kernel. */
void arena_free(Arena *arena, uint64_t offset, uint64_t size);

/* Forgets all blocks. */
void arena_reset(Arena *arena);
