/* slices.c - a command's work in slices of a millisecond, so that it stalls nobody (slices.h). Main thread only. */
#include "commands/slices.h"

#include "redis/command.h"
#include "redis/latency.h"

#define SLICE_NS 1000000
#define PAUSE_MS 1

static void do_slice(RedisModuleCtx *ctx, void *data);

static void do_next_slice(RedisModuleCtx *ctx, void *data) {
    int64_t begun = monotonic_ns();
    do_slice(ctx, data);
    latency_note("redisai-slices", begun);
}

static void do_slice(RedisModuleCtx *ctx, void *data) {
    Slices *work = data;
    int64_t end = monotonic_ns() + SLICE_NS;
    while (work->step(work)) {
        if (monotonic_ns() < end) continue;
        RedisModule_CreateTimer(ctx, PAUSE_MS, do_next_slice, work);
        return;
    }
    RedisModule_BlockedClientMeasureTimeEnd(work->blocked);
    RedisModule_UnblockClient(work->blocked, work);
}

static int reply_blocked(RedisModuleCtx *ctx, RedisModuleString **argv, int argc) {
    Slices *work = RedisModule_GetBlockedClientPrivateData(ctx);
    work->reply(ctx, work);
    return REDISMODULE_OK;
}

static void free_blocked(RedisModuleCtx *ctx, void *data) {
    Slices *work = data;
    RedisModule_FreeThreadSafeContext(work->ctx);
    work->freed(work);
}

int do_in_slices(RedisModuleCtx *ctx, Slices *work) {
    work->ctx = ctx;
    if (wait_mode(ctx) == WAIT_BLOCK)
        work->blocked = RedisModule_BlockClient(ctx, reply_blocked, NULL, free_blocked, 0);
    if (work->blocked) {
        work->ctx = RedisModule_GetThreadSafeContext(work->blocked);
        RedisModule_BlockedClientMeasureTimeStart(work->blocked);
        do_slice(ctx, work);
        return REDISMODULE_OK;
    }
    while (work->step(work)) {
    }
    work->reply(ctx, work);
    work->freed(work);
    return REDISMODULE_OK;
}
