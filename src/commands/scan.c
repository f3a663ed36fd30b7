/* scan.c - AI._MODELSCAN and AI._SCRIPTSCAN: the keys and tags of a database (stored.h). Main thread only.
 *
 * There is no index of models and scripts: renames, moves and swaps would all have to maintain it. The keyspace is
 * scanned instead, in slices. So a database of any size stalls nobody. */
#include "commands/slices.h"
#include "commands/stored.h"
#include "redis/command.h"

typedef struct Found {
    RedisModuleString *key; /* held */
    Runnable *value;        /* a reference */
} Found;

typedef struct KeyScan {
    Slices slices; /* first */
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

static int scan_some(Slices *slices) {
    return RedisModule_Scan(slices->ctx, ((KeyScan *)slices)->cursor, check_key, slices);
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

static void reply_found(RedisModuleCtx *ctx, Slices *slices) {
    const KeyScan *scan = (const KeyScan *)slices;
    size_t count = keep_permitted(ctx, scan);
    RedisModule_ReplyWithArray(ctx, (long)count);
    for (size_t i = 0; i < count; i++) {
        RedisModule_ReplyWithArray(ctx, 2);
        RedisModule_ReplyWithString(ctx, scan->found[i].key);
        RedisModule_ReplyWithStringBuffer(ctx, scan->found[i].value->tag, scan->found[i].value->tag_size);
    }
}

static void free_scan(Slices *slices) {
    KeyScan *scan = (KeyScan *)slices;
    for (size_t i = 0; i < scan->count; i++) {
        RedisModule_FreeString(NULL, scan->found[i].key);
        runnable_unref(scan->found[i].value);
    }
    RedisModule_Free(scan->found);
    RedisModule_ScanCursorDestroy(scan->cursor);
    RedisModule_Free(scan);
}

int scan_runnables(RedisModuleCtx *ctx, RedisModuleType *type) {
    KeyScan *scan = RedisModule_Calloc(1, sizeof(*scan));
    scan->slices = (Slices){.step = scan_some, .reply = reply_found, .freed = free_scan};
    scan->cursor = RedisModule_ScanCursorCreate();
    scan->type = type;
    return do_in_slices(ctx, &scan->slices);
}
