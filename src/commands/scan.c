/* scan.c - AI._MODELSCAN and AI._SCRIPTSCAN: the keys and tags of a database (stored.h). Main thread only.
 *
 * There is no index of models and scripts: renames, moves and swaps would all have to maintain it. The keyspace is
 * scanned instead, in slices of a millisecond with the event loop running between them. So a database of any size
 * stalls nobody. */
#include "commands/stored.h"
#include "redis/clock.h"
#include "redis/command.h"

#define SLICE_NS 1000000
#define PAUSE_MS 1

typedef struct Found {
    RedisModuleString *key; /* held */
    Runnable *value;        /* a reference */
} Found;

typedef struct KeyScan {
    RedisModuleBlockedClient *blocked;
    RedisModuleCtx *ctx; /* of the blocked client, with its database */
    RedisModuleScanCursor *cursor;
    RedisModuleType *type; /* of the wanted values */
    Found *found;
    size_t count;
} KeyScan;

static void check_key(RedisModuleCtx *ctx, RedisModuleString *name, RedisModuleKey *key, void *data) {
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
    while (RedisModule_Scan(scan->ctx, scan->cursor, check_key, scan)) {
        if (monotonic_ns() < end) continue;
        RedisModule_CreateTimer(ctx, PAUSE_MS, scan_slice, scan);
        return;
    }
    RedisModule_BlockedClientMeasureTimeEnd(scan->blocked);
    RedisModule_UnblockClient(scan->blocked, scan);
}

/* Moves what the caller may read to the front, and returns how many those are. */
static size_t keep_permitted(RedisModuleCtx *ctx, const KeyScan *scan) {
    RedisModuleUser *user;
    if (!find_user(ctx, &user)) return scan->count;
    size_t kept = 0;
    for (size_t i = 0; i < scan->count && user; i++) {
        Found found = scan->found[i];
        if (RedisModule_ACLCheckKeyPermissions(user, found.key, REDISMODULE_CMD_KEY_ACCESS)) continue;
        scan->found[i] = scan->found[kept];
        scan->found[kept++] = found;
    }
    if (user) RedisModule_FreeModuleUser(user);
    return kept;
}

static void reply_found(RedisModuleCtx *ctx, const KeyScan *scan) {
    size_t count = keep_permitted(ctx, scan);
    RedisModule_ReplyWithArray(ctx, (long)count);
    for (size_t i = 0; i < count; i++) {
        RedisModule_ReplyWithArray(ctx, 2);
        RedisModule_ReplyWithString(ctx, scan->found[i].key);
        RedisModule_ReplyWithStringBuffer(ctx, scan->found[i].value->tag, scan->found[i].value->tag_size);
    }
}

static int reply_scan(RedisModuleCtx *ctx, RedisModuleString **argv, int argc) {
    reply_found(ctx, RedisModule_GetBlockedClientPrivateData(ctx));
    return REDISMODULE_OK;
}

static void free_scan(RedisModuleCtx *ctx, void *data) {
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
    while (RedisModule_Scan(ctx, scan->cursor, check_key, scan)) {
    }
    reply_found(ctx, scan);
    free_scan(ctx, scan);
    return REDISMODULE_OK;
}
