/* cache.c - what a model has given for which inputs (cache.h).
 *
 * Main thread, but for cache_free, whose caller has the cache alone. No locks. An entry shares its tensors with keys
 * and runs. Those of a large tensor's string that are not the command's own are the tensor's alone
 * (docs/architecture.md). */
#include "values/cache.h"

#include <string.h>

#include "values/runnable.h"
#include "values/tensor.h"

#define DICT_BYTES 80        /* that the dictionary takes for an entry, about */
#define ALMOST_FULL 0.95f    /* of maxmemory */
#define MOST_DROPPED 64      /* by one that comes: their memory is freed meanwhile */
#define DROPPED_AT_ONCE 1000 /* of a cache that nobody needs any more; 0.2 ms */

typedef struct Entry {
    struct Entry *newer, *older;
    uint64_t hash;
    size_t bytes;
    int32_t ninputs, noutputs;
    Tensor *tensors[]; /* the inputs, then the outputs */
} Entry;

struct Cache {
    RedisModuleDict *entries; /* by hash: of those with one hash the last */
    Entry *newest, *oldest;   /* by use */
    int64_t count, bytes;
};

/* ---- the hash ---------------------------------------------------------------------------------------------------- */

/* SipHash-2-4 over words. Full blocks of data go through NH before, of which it is proven that without the key no two
 * blocks are known to collide (UMAC, RFC 4418; with words of 64 bits as in VMAC): 7 times as fast. */
#define BLOCK_WORDS 128
#define BLOCK (BLOCK_WORDS * sizeof(uint64_t))

typedef unsigned __int128 Wide;

static struct {
    uint64_t sip[2], nh[BLOCK_WORDS];
} key;

typedef struct Sip {
    uint64_t v0, v1, v2, v3;
} Sip;

static uint64_t rotated(uint64_t word, int bits) { return word << bits | word >> (64 - bits); }

static void mix(Sip *sip, int rounds) {
    while (rounds--) {
        sip->v0 += sip->v1;
        sip->v1 = rotated(sip->v1, 13) ^ sip->v0;
        sip->v0 = rotated(sip->v0, 32);
        sip->v2 += sip->v3;
        sip->v3 = rotated(sip->v3, 16) ^ sip->v2;
        sip->v0 += sip->v3;
        sip->v3 = rotated(sip->v3, 21) ^ sip->v0;
        sip->v2 += sip->v1;
        sip->v1 = rotated(sip->v1, 17) ^ sip->v2;
        sip->v2 = rotated(sip->v2, 32);
    }
}

static Sip sip_begin(void) {
    static int has_key;
    if (!has_key) RedisModule_GetRandomBytes((unsigned char *)&key, sizeof(key));
    has_key = 1;
    return (Sip){.v0 = key.sip[0] ^ 0x736f6d6570736575ULL,
                 .v1 = key.sip[1] ^ 0x646f72616e646f6dULL,
                 .v2 = key.sip[0] ^ 0x6c7967656e657261ULL,
                 .v3 = key.sip[1] ^ 0x7465646279746573ULL};
}

static void sip_add(Sip *sip, uint64_t word) {
    sip->v3 ^= word;
    mix(sip, 2);
    sip->v0 ^= word;
}

static uint64_t sip_end(Sip *sip) {
    sip->v2 ^= 0xff;
    mix(sip, 4);
    return sip->v0 ^ sip->v1 ^ sip->v2 ^ sip->v3;
}

static uint64_t word_at(const char *data, size_t size) {
    uint64_t word = 0;
    memcpy(&word, data, size);
    return word;
}

static void add_block(Sip *sip, const char *data) {
    Wide sum = 0;
    for (int i = 0; i < BLOCK_WORDS; i += 2) {
        uint64_t one = word_at(data + i * 8, 8) + key.nh[i], other = word_at(data + i * 8 + 8, 8) + key.nh[i + 1];
        sum += (Wide)one * other;
    }
    sip_add(sip, (uint64_t)sum);
    sip_add(sip, (uint64_t)(sum >> 64));
}

/* The size is added, too, so what is added tells where each part ends. */
static void add_data(Sip *sip, const void *data, uint64_t size) {
    const char *at = data;
    sip_add(sip, size);
    for (; size >= BLOCK; at += BLOCK, size -= BLOCK) add_block(sip, at);
    for (; size >= 8; at += 8, size -= 8) sip_add(sip, word_at(at, 8));
    if (size) sip_add(sip, word_at(at, size));
}

static uint64_t offsets_bytes(const Tensor *tensor) { return tensor->offsets ? tensor->length * sizeof(uint64_t) : 0; }

uint64_t cache_input_bytes(const Op *op) {
    uint64_t bytes = 0;
    for (int i = 0; i < op->ninputs; i++) bytes += op->inputs[i]->size + offsets_bytes(op->inputs[i]);
    return bytes;
}

uint64_t cache_hash(const Op *op) {
    Sip sip = sip_begin();
    sip_add(&sip, op->ninputs);
    sip_add(&sip, op->noutputs);
    for (int i = 0; i < op->ninputs; i++) {
        const Tensor *tensor = op->inputs[i];
        sip_add(&sip, tensor->dtype);
        add_data(&sip, tensor->shape, tensor->ndim * sizeof(*tensor->shape));
        add_data(&sip, tensor->data, tensor->size);
        if (tensor->offsets) add_data(&sip, tensor->offsets, offsets_bytes(tensor));
    }
    uint64_t hash = sip_end(&sip);
    return hash ? hash : 1;
}

/* ---- entries ----------------------------------------------------------------------------------------------------- */

static int are_equal(const Tensor *one, const Tensor *other) {
    if (one == other) return 1;
    if (one->dtype != other->dtype || one->ndim != other->ndim || one->size != other->size) return 0;
    return memcmp(one->shape, other->shape, one->ndim * sizeof(*one->shape)) == 0 &&
           memcmp(one->data, other->data, one->size) == 0 &&
           (one->offsets == NULL || memcmp(one->offsets, other->offsets, offsets_bytes(one)) == 0);
}

static int is_of(const Entry *entry, const Op *op) {
    if (entry->ninputs != op->ninputs || entry->noutputs != op->noutputs) return 0;
    for (int i = 0; i < op->ninputs; i++) {
        if (!are_equal(entry->tensors[i], op->inputs[i])) return 0;
    }
    return 1;
}

static struct {
    int64_t entries, bytes; /* atomic: of all models */
} all;

static void count(Cache *cache, int entries, int64_t bytes) {
    cache->count += entries;
    cache->bytes += bytes;
    __atomic_add_fetch(&all.entries, entries, __ATOMIC_RELAXED);
    __atomic_add_fetch(&all.bytes, bytes, __ATOMIC_RELAXED);
}

static void link_newest(Cache *cache, Entry *entry) {
    entry->newer = NULL;
    entry->older = cache->newest;
    *(cache->newest ? &cache->newest->newer : &cache->oldest) = entry;
    cache->newest = entry;
}

static void unlink_entry(Cache *cache, Entry *entry) {
    *(entry->newer ? &entry->newer->older : &cache->newest) = entry->older;
    *(entry->older ? &entry->older->newer : &cache->oldest) = entry->newer;
}

static Entry *find(const Cache *cache, uint64_t hash) {
    return RedisModule_DictGetC(cache->entries, &hash, sizeof(hash), NULL);
}

static void free_entry(Cache *cache, Entry *entry) {
    unlink_entry(cache, entry);
    count(cache, -1, -(int64_t)entry->bytes);
    for (int i = 0; i < entry->ninputs + entry->noutputs; i++) tensor_unref(entry->tensors[i]);
    RedisModule_Free(entry);
}

static void drop(Cache *cache, Entry *entry) {
    RedisModule_DictDelC(cache->entries, &entry->hash, sizeof(entry->hash), NULL);
    free_entry(cache, entry);
}

static Tensor *tensor_of(const Op *op, int i) { return i < op->ninputs ? op->inputs[i] : op->outputs[i - op->ninputs]; }

static size_t entry_size(const Op *op) { return sizeof(Entry) + (op->ninputs + op->noutputs) * sizeof(Tensor *); }

static void add_entry(Cache *cache, const Op *op, uint64_t hash, size_t bytes) {
    Entry *entry = RedisModule_Alloc(entry_size(op));
    *entry = (Entry){.hash = hash, .bytes = bytes, .ninputs = op->ninputs, .noutputs = op->noutputs};
    for (int i = 0; i < op->ninputs + op->noutputs; i++) entry->tensors[i] = tensor_ref(tensor_of(op, i));
    link_newest(cache, entry);
    RedisModule_DictSetC(cache->entries, &hash, sizeof(hash), entry);
    count(cache, 1, (int64_t)bytes);
}

/* ---- the cache of a model ---------------------------------------------------------------------------------------- */

int cache_get(Model *model, const Op *op, uint64_t hash) {
    Cache *cache = model->base.state->cache;
    Entry *entry = cache ? find(cache, hash) : NULL;
    if (entry == NULL || !is_of(entry, op)) return 0;
    unlink_entry(cache, entry);
    link_newest(cache, entry);
    for (int i = 0; i < op->noutputs; i++) op->outputs[i] = tensor_ref(entry->tensors[op->ninputs + i]);
    return 1;
}

static Cache *cache_of(Model *model) {
    if (model->base.state->cache) return model->base.state->cache;
    Cache *cache = model->base.state->cache = RedisModule_Calloc(1, sizeof(*cache));
    cache->entries = RedisModule_CreateDict(NULL);
    return cache;
}

/* Redis cannot evict entries, only keys. So a cache stays as it is where little memory is left, and goes where none is:
 * entries make room for each other. */
static int64_t limit_of(const Model *model, const Cache *cache) {
    float used = RedisModule_GetUsedMemoryRatio();
    if (used > 1) return 0;
    return used > ALMOST_FULL && cache->bytes < model->limits.cache ? cache->bytes : model->limits.cache;
}

void cache_put(Model *model, const Op *op, uint64_t hash) {
    int64_t bytes = DICT_BYTES + (int64_t)entry_size(op);
    for (int i = 0; i < op->ninputs + op->noutputs; i++) bytes += (int64_t)tensor_allocated(tensor_of(op, i));
    if (bytes > model->limits.cache) return; /* also where nothing is kept any more */
    Cache *cache = cache_of(model);
    int64_t limit = limit_of(model, cache);
    Entry *same = find(cache, hash);
    if (same) drop(cache, same);
    for (int i = 0; i < MOST_DROPPED && cache->oldest && cache->bytes > limit - bytes; i++) drop(cache, cache->oldest);
    if (cache->bytes <= limit - bytes) add_entry(cache, op, hash, bytes);
}

static void drop_some(RedisModuleCtx *ctx, void *data) {
    Cache *cache = data;
    for (int i = 0; i < DROPPED_AT_ONCE && cache->oldest; i++) drop(cache, cache->oldest);
    if (cache->oldest) {
        RedisModule_CreateTimer(ctx, 1, drop_some, cache);
    } else {
        cache_free(cache);
    }
}

void cache_clear(Model *model) {
    Cache *cache = model->base.state->cache;
    model->base.state->cache = NULL;
    if (cache) drop_some(log_context, cache);
}

CacheFigures cache_all_figures(void) {
    return (CacheFigures){.entries = __atomic_load_n(&all.entries, __ATOMIC_RELAXED),
                          .bytes = __atomic_load_n(&all.bytes, __ATOMIC_RELAXED)};
}

CacheFigures cache_figures(const Model *model) {
    const Cache *cache = model->base.state->cache;
    return cache ? (CacheFigures){.entries = cache->count, .bytes = cache->bytes} : (CacheFigures){0};
}

void cache_free(Cache *cache) {
    if (cache == NULL) return;
    while (cache->oldest) free_entry(cache, cache->oldest);
    RedisModule_FreeDict(NULL, cache->entries);
    RedisModule_Free(cache);
}
