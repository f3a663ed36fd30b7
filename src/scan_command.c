/* scan_command.c - AI._MODELSCAN: all models of the database. Main thread only.
 *
 * There is no index of models: renames, moves and swaps would all have to keep it. The keyspace is scanned instead, in
 * slices of a millisecond with the event loop running between them, so a database of any size stalls nobody. */
#include <time.h>

#include "command.h"
#include "model.h"

#define SLICE_NS 1000000
#define PAUSE_MS 1

typedef struct Found {
    RedisModuleString *key; /* held */
    Model *model;           /* a reference */
} Found;

typedef struct ModelScan {
    RedisModuleBlockedClient *blocked;
    RedisModuleCtx *ctx; /* of the blocked client: knows its database */
    RedisModuleScanCursor *cursor;
    Found *found;
    size_t count;
} ModelScan;

static void look_at_key(RedisModuleCtx *ctx, RedisModuleString *name, RedisModuleKey *key, void *data) {
    (void)ctx;
    ModelScan *scan = data;
    if (key == NULL || RedisModule_ModuleTypeGetType(key) != ModelType) return;
    if ((scan->count & (scan->count - 1)) == 0) {
        scan->found = RedisModule_Realloc(scan->found, (scan->count ? scan->count * 2 : 1) * sizeof(Found));
    }
    scan->found[scan->count++] =
        (Found){.key = RedisModule_HoldString(NULL, name), .model = model_ref(RedisModule_ModuleTypeGetValue(key))};
}

static int64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static void scan_slice(RedisModuleCtx *ctx, void *data) {
    ModelScan *scan = data;
    int64_t end = now_ns() + SLICE_NS;
    while (RedisModule_Scan(scan->ctx, scan->cursor, look_at_key, scan)) {
        if (now_ns() < end) continue;
        RedisModule_CreateTimer(ctx, PAUSE_MS, scan_slice, scan);
        return;
    }
    RedisModule_UnblockClient(scan->blocked, scan);
}

static void reply_found(RedisModuleCtx *ctx, const ModelScan *scan) {
    RedisModule_ReplyWithArray(ctx, (long)scan->count);
    for (size_t i = 0; i < scan->count; i++) {
        RedisModule_ReplyWithArray(ctx, 2);
        RedisModule_ReplyWithString(ctx, scan->found[i].key);
        RedisModule_ReplyWithStringBuffer(ctx, scan->found[i].model->tag, scan->found[i].model->tag_size);
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
    ModelScan *scan = data;
    for (size_t i = 0; i < scan->count; i++) {
        RedisModule_FreeString(NULL, scan->found[i].key);
        model_unref(scan->found[i].model);
    }
    RedisModule_Free(scan->found);
    RedisModule_ScanCursorDestroy(scan->cursor);
    if (scan->blocked) RedisModule_FreeThreadSafeContext(scan->ctx);
    RedisModule_Free(scan);
}

static int modelscan_command(RedisModuleCtx *ctx, RedisModuleString **argv, int argc) {
    if (argc != 1) return reply_wrong_arity(ctx, argv);
    ModelScan *scan = RedisModule_Calloc(1, sizeof(*scan));
    scan->cursor = RedisModule_ScanCursorCreate();
    scan->ctx = ctx;
    if (wait_mode(ctx) == WAIT_BLOCK) scan->blocked = RedisModule_BlockClient(ctx, reply_scan, NULL, free_scan, 0);
    if (scan->blocked) {
        scan->ctx = RedisModule_GetThreadSafeContext(scan->blocked);
        scan_slice(ctx, scan);
        return REDISMODULE_OK;
    }
    while (RedisModule_Scan(ctx, scan->cursor, look_at_key, scan)) {
    }
    reply_found(ctx, scan);
    free_scan(ctx, scan);
    return REDISMODULE_OK;
}

int scan_command_register(RedisModuleCtx *ctx) {
    return RedisModule_CreateCommand(ctx, "AI._MODELSCAN", modelscan_command, "readonly", 0, 0, 0);
}
