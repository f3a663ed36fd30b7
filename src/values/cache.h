/* cache.h - what a model has given for which inputs: equal inputs are answered from memory (CACHE).
 *
 * Main thread, but for cache_free. Inputs are found by a hash and then compared, so a collision costs time only. The
 * hash has a key of this process that nobody knows, so clients cannot make collisions. */
#pragma once

#include "bridge.h"

/* Bytes of inputs that one command may have hashed: 0.1 ms of the event loop. What is larger is never kept. */
#define CACHE_MAX_HASHED (1 << 20)

/* The bytes that cache_hash() reads. */
uint64_t cache_input_bytes(const Op *op);

/* Of the op's inputs; never 0. */
uint64_t cache_hash(const Op *op);

/* Sets the outputs of an op of this model if they are kept. Returns whether they are. */
int cache_get(Model *model, const Op *op, uint64_t hash);

/* Keeps the outputs of an op that has run. Others go for it, those that were not used for longest first. */
void cache_put(Model *model, const Op *op, uint64_t hash);

/* Forgets all that is kept, a part at a time. */
void cache_clear(Model *model);

typedef struct CacheFigures {
    int64_t entries, bytes;
} CacheFigures;
CacheFigures cache_figures(const Model *model);
CacheFigures cache_all_figures(void);

/* For the end of a model. Any thread. */
typedef struct Cache Cache;
void cache_free(Cache *cache);
