/* runnable_type.c - the parts that the datatypes of models and scripts share (runnable_type.h).
 *
 * Callbacks run on the main thread, save in the BGSAVE child, free also on Redis's lazy-free thread. */
#include "values/runnable_type.h"

#include <string.h>

#include "values/defrag.h"

const char *runnable_load(RedisModuleIO *io, Runnable *runnable, int encver) {
    runnable->device = rdb_load_text(io);
    if (runnable->device == NULL || !device_is_valid(runnable->device)) return "not a device";
    if (encver == 0) {
        runnable->tag = rdb_load_text(io);
        runnable->tag_size = runnable->tag ? strlen(runnable->tag) : 0;
    } else {
        runnable->tag = rdb_load_bytes(io, &runnable->tag_size);
    }
    return runnable->tag ? NULL : "no tag";
}

void runnable_save(RedisModuleIO *io, const Runnable *runnable) {
    rdb_save_text(io, runnable->device);
    RedisModule_SaveStringBuffer(io, runnable->tag, runnable->tag_size);
}

void *runnable_loaded(RedisModuleIO *io, Runnable *runnable, const char *type, const char *error) {
    if (error || RedisModule_IsIOError(io)) {
        runnable_destroy(runnable); /* the loader has never seen it */
        return rdb_corrupt(io, type, error);
    }
    runnable_set_label(runnable, RedisModule_GetKeyNameFromIO(io));
    runnable_compile(runnable);
    return runnable;
}

size_t runnable_memory(const Runnable *runnable) {
    return KEY_OVERHEAD + RedisModule_MallocSize((void *)runnable) + RedisModule_MallocSize(runnable->state) +
           RedisModule_MallocSize(runnable->device) + RedisModule_MallocSize(runnable->tag) +
           stats_memory(&runnable->state->stats) + slowest_memory(&runnable->state->slowest);
}

void runnable_digest(RedisModuleDigest *digest, const Runnable *runnable) {
    RedisModule_DigestAddStringBuffer(digest, runnable->device, strlen(runnable->device));
    RedisModule_DigestAddStringBuffer(digest, runnable->tag, runnable->tag_size);
}

/* Ops, jobs and calls of scripts keep pointers, each with a reference. Python keeps sessions by id. */
void *runnable_defrag(RedisModuleDefragCtx *ctx, Runnable *runnable) {
    if (!runnable_has_one_ref(runnable)) return NULL;
    DEFRAG(ctx, runnable);
    DEFRAG(ctx, runnable->state);
    DEFRAG(ctx, runnable->state->stats.queue_times);
    DEFRAG(ctx, runnable->state->stats.run_times);
    DEFRAG(ctx, runnable->device);
    DEFRAG(ctx, runnable->tag);
    return runnable;
}

void names_defrag(RedisModuleDefragCtx *ctx, Names *names) {
    DEFRAG(ctx, names->names);
    for (int64_t i = 0; i < names->count; i++) DEFRAG(ctx, names->names[i]);
}

static void release(void *value) { runnable_unref(value); }

/* Freeing only hands the value to the loader. */
static size_t free_effort(RedisModuleString *key, const void *value) { return 1; }

/* One definition, one session, one set of statistics under two names. */
static void *copy(RedisModuleString *from, RedisModuleString *to, const void *value) {
    return runnable_ref((Runnable *)value);
}

RedisModuleType *runnable_type_register(RedisModuleCtx *ctx, const char *name, RedisModuleTypeMethods methods) {
    methods.version = REDISMODULE_TYPE_METHOD_VERSION;
    methods.free = release;
    methods.free_effort = free_effort;
    methods.copy = copy;
    return RedisModule_CreateDataType(ctx, name, RDB_ENCODING_VERSION, &methods);
}
