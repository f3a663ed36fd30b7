/* unblock.c - blocked clients whose reply callbacks write, or wait for a job (unblock.h).
 *
 * Main thread, except unblock_to_write (any thread) and unblock_after_job (loader). No locks, no state. */
#include "run/unblock.h"

#include "redis/event_loop.h"

typedef struct Unblocking {
    Task task;
    RedisModuleBlockedClient *blocked;
    void *privdata;
} Unblocking;

/* Redis 7.0 runs reply callbacks right after this and reads no command in between. So no command can pause writes
 * before the callback writes. Redis 8 and Valkey run them in the next iteration: there a command can. */
static void unblock(Task *task) {
    Unblocking *unblocking = (Unblocking *)task;
    RedisModule_UnblockClient(unblocking->blocked, unblocking->privdata);
    RedisModule_Free(unblocking);
}

void unblock_to_write(RedisModuleBlockedClient *blocked, void *privdata) {
    Unblocking *unblocking = RedisModule_Alloc(sizeof(*unblocking));
    *unblocking = (Unblocking){.task.perform = unblock, .blocked = blocked, .privdata = privdata};
    event_loop_post(&unblocking->task);
}

/* ---- clients that wait for the loader ---------------------------------------------------------------------------- */

static void unblock_after_job(LoaderJob *job) {
    RedisModule_BlockedClientMeasureTimeEnd(job->data);
    unblock_to_write(job->data, job);
}

static void free_blocked_job(RedisModuleCtx *ctx, void *job) { job_free(job); }

int block_on_job(RedisModuleCtx *ctx, LoaderJob *job, RedisModuleCmdFunc reply) {
    job->data = RedisModule_BlockClient(ctx, reply, NULL, free_blocked_job, 0);
    if (job->data == NULL) {
        job_free(job);
        return RedisModule_ReplyWithError(ctx, "ERR this client cannot be blocked");
    }
    job->finished = unblock_after_job;
    RedisModule_BlockedClientMeasureTimeStart(job->data);
    job_post(job);
    return REDISMODULE_OK;
}
