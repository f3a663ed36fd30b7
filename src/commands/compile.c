/* commands/compile.c - storing, deleting and scanning what the loader compiles (commands/compile.h). Main thread only.
 *
 * Storing blocks the client, not the server: the loader compiles, and the reply callback sets the key. */
#include "commands/compile.h"

#include "engine/jobs.h"
#include "redis/clock.h"
#include "redis/command.h"
#include "run/unblock.h"
#include "values/model.h"
#include "values/script.h"

RedisModuleType *type_of(const Runnable *runnable) {
    return runnable->kind == KIND_MODEL ? ModelType : ScriptType;
}

/* What has been compiled becomes the key's value. The key may have been given another type meanwhile. */
static int store_compiled(RedisModuleCtx *ctx, RedisModuleString *name, const LoaderJob *job) {
    if (job->error) return reply_error(ctx, "%s", job->error);
    RedisModuleType *type = type_of(job->job.runnable);
    if (!key_accepts(ctx, name, type)) return reply_wrong_type(ctx);
    store_value(ctx, name, type, runnable_ref(job->job.runnable));
    RedisModule_ReplicateVerbatim(ctx);
    return reply_ok(ctx);
}

static int reply_stored(RedisModuleCtx *ctx, RedisModuleString **argv, int argc) {
    (void)argc;
    if (!key_is_here(ctx, argv[1])) return REDISMODULE_OK;
    return store_compiled(ctx, argv[1], RedisModule_GetBlockedClientPrivateData(ctx));
}

int store_runnable(RedisModuleCtx *ctx, RedisModuleString **argv, Runnable *runnable) {
    LoaderJob *job = job_new(JOB_LOAD, runnable);
    WaitMode mode = wait_mode(ctx);
    if (mode == WAIT_BLOCK) return block_on_job(ctx, job, reply_stored);
    if (mode == WAIT_MAIN_THREAD) {
        if (job_post_and_wait(job, JOB_PATIENCE) == -1) {
            return reply_error(ctx, "not compiled within %d s; store it outside of transactions and scripts",
                               JOB_PATIENCE);
        }
        store_compiled(ctx, argv[1], job);
        job_free(job);
        return REDISMODULE_OK;
    }
    /* From the master or the AOF: it was accepted once, so it is kept whatever this machine makes of it. */
    store_value(ctx, argv[1], type_of(runnable), runnable_ref(runnable));
    RedisModule_ReplicateVerbatim(ctx);
    job_post(job);
    return reply_ok(ctx);
}

int delete_runnable(RedisModuleCtx *ctx, RedisModuleString **argv, RedisModuleType *type, const char *empty) {
    int replied;
    Runnable *runnable = lookup_value(ctx, argv[1], type, &replied);
    if (replied) return REDISMODULE_OK;
    if (runnable == NULL) return reply_error(ctx, "%s", empty);
    RedisModuleKey *key = RedisModule_OpenKey(ctx, argv[1], REDISMODULE_READ | REDISMODULE_WRITE);
    RedisModule_DeleteKey(key);
    RedisModule_CloseKey(key);
    RedisModule_ReplicateVerbatim(ctx);
    return reply_ok(ctx);
}

/* ---- AI._MODELSCAN, AI._SCRIPTSCAN ---------------------------------------------------------------------------------
 *
 * There is no index of models and scripts: renames, moves and swaps would all have to keep it. The keyspace is scanned
 * instead, in slices of a millisecond with the event loop running between them, so a database of any size stalls
 * nobody. */

#define SLICE_NS 1000000
#define PAUSE_MS 1

typedef struct Found {
    RedisModuleString *key; /* held */
    Runnable *value;        /* a reference */
} Found;

typedef struct KeyScan {
    RedisModuleBlockedClient *blocked;
    RedisModuleCtx *ctx; /* of the blocked client: knows its database */
    RedisModuleScanCursor *cursor;
    RedisModuleType *type; /* of the values looked for */
    Found *found;
    size_t count;
} KeyScan;

static void look_at_key(RedisModuleCtx *ctx, RedisModuleString *name, RedisModuleKey *key, void *data) {
    (void)ctx;
    KeyScan *scan = data;
    if (key == NULL || RedisModule_ModuleTypeGetType(key) != scan->type) return;
    if ((scan->count & (scan->count - 1)) == 0) {
        scan->found = RedisModule_Realloc(scan->found, (scan->count ? scan->count * 2 : 1) * sizeof(Found));
    }
    scan->found[scan->count++] =
        (Found){.key = RedisModule_HoldString(NULL, name), .value = runnable_ref(RedisModule_ModuleTypeGetValue(key))};
}

static void scan_slice(RedisModuleCtx *ctx, void *data) {
    KeyScan *scan = data;
    int64_t end = monotonic_ns() + SLICE_NS;
    while (RedisModule_Scan(scan->ctx, scan->cursor, look_at_key, scan)) {
        if (monotonic_ns() < end) continue;
        RedisModule_CreateTimer(ctx, PAUSE_MS, scan_slice, scan);
        return;
    }
    RedisModule_BlockedClientMeasureTimeEnd(scan->blocked);
    RedisModule_UnblockClient(scan->blocked, scan);
}

static void reply_found(RedisModuleCtx *ctx, const KeyScan *scan) {
    RedisModule_ReplyWithArray(ctx, (long)scan->count);
    for (size_t i = 0; i < scan->count; i++) {
        RedisModule_ReplyWithArray(ctx, 2);
        RedisModule_ReplyWithString(ctx, scan->found[i].key);
        RedisModule_ReplyWithStringBuffer(ctx, scan->found[i].value->tag, scan->found[i].value->tag_size);
    }
}

static int reply_scan(RedisModuleCtx *ctx, RedisModuleString **argv, int argc) {
    (void)argv;
    (void)argc;
    reply_found(ctx, RedisModule_GetBlockedClientPrivateData(ctx));
    return REDISMODULE_OK;
}

static void free_scan(RedisModuleCtx *ctx, void *data) {
    (void)ctx;
    KeyScan *scan = data;
    for (size_t i = 0; i < scan->count; i++) {
        RedisModule_FreeString(NULL, scan->found[i].key);
        runnable_unref(scan->found[i].value);
    }
    RedisModule_Free(scan->found);
    RedisModule_ScanCursorDestroy(scan->cursor);
    if (scan->blocked) RedisModule_FreeThreadSafeContext(scan->ctx);
    RedisModule_Free(scan);
}

int scan_runnables(RedisModuleCtx *ctx, RedisModuleType *type) {
    KeyScan *scan = RedisModule_Calloc(1, sizeof(*scan));
    scan->cursor = RedisModule_ScanCursorCreate();
    scan->type = type;
    scan->ctx = ctx;
    if (wait_mode(ctx) == WAIT_BLOCK) scan->blocked = RedisModule_BlockClient(ctx, reply_scan, NULL, free_scan, 0);
    if (scan->blocked) {
        scan->ctx = RedisModule_GetThreadSafeContext(scan->blocked);
        RedisModule_BlockedClientMeasureTimeStart(scan->blocked);
        scan_slice(ctx, scan);
        return REDISMODULE_OK;
    }
    while (RedisModule_Scan(ctx, scan->cursor, look_at_key, scan)) {
    }
    reply_found(ctx, scan);
    free_scan(ctx, scan);
    return REDISMODULE_OK;
}
