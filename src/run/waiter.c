/* waiter.c - clients that are blocked until a run or job has ended (waiter.h).
 *
 * Main thread, except waiter_end (any thread) and job_finished (loader). No locks. */
#include "run/waiter.h"

#include <stddef.h>
#include <stdint.h>

/* Redis 7.0 gives a disconnect callback only the blocked client's handle, so this table finds the waiter. */
#define BUCKETS 4096
static Waiter *waiters[BUCKETS];

static Waiter **bucket_of(RedisModuleBlockedClient *blocked) { return &waiters[((uintptr_t)blocked >> 6) % BUCKETS]; }

static void disconnected(RedisModuleCtx *ctx, RedisModuleBlockedClient *blocked) {
    Waiter *waiter = *bucket_of(blocked);
    while (waiter && waiter->blocked != blocked) waiter = waiter->next;
    if (waiter == NULL) return;
    waiter->is_gone = 1;
    if (waiter->gone) waiter->gone(waiter);
}

static void freed(RedisModuleCtx *ctx, void *data) {
    Waiter *waiter = data;
    Waiter **at = bucket_of(waiter->blocked);
    while (*at != waiter) at = &(*at)->next;
    *at = waiter->next;
    waiter->freed(ctx, waiter);
}

int waiter_block(RedisModuleCtx *ctx, Waiter *waiter, RedisModuleCmdFunc reply) {
    waiter->blocked = RedisModule_BlockClient(ctx, reply, NULL, freed, 0);
    if (waiter->blocked == NULL) {
        RedisModule_ReplyWithError(ctx, "ERR this client cannot be blocked");
        return -1;
    }
    waiter->db = RedisModule_GetSelectedDb(ctx);
    RedisModule_SetDisconnectCallback(waiter->blocked, disconnected);
    RedisModule_BlockedClientMeasureTimeStart(waiter->blocked);
    Waiter **bucket = bucket_of(waiter->blocked);
    waiter->next = *bucket;
    *bucket = waiter;
    return 0;
}

_Static_assert(offsetof(Waiter, task) == 0, "a Task is cast to the Waiter that begins with it");
_Static_assert(offsetof(JobWaiter, waiter) == 0, "a Waiter is cast to the JobWaiter that begins with it");

static void write_and_unblock(RedisModuleCtx *ctx, Task *task) {
    Waiter *waiter = (Waiter *)task;
    if (!waiter->is_gone) {
        RedisModule_SelectDb(ctx, waiter->db);
        waiter->write(ctx, waiter);
    }
    RedisModule_UnblockClient(waiter->blocked, waiter);
}

static int is_gone(const Task *task) { return ((const Waiter *)task)->is_gone; }

void waiter_end(Waiter *waiter, int writes) {
    RedisModule_BlockedClientMeasureTimeEnd(waiter->blocked);
    if (!writes) {
        RedisModule_UnblockClient(waiter->blocked, waiter);
        return;
    }
    waiter->task = (Task){.perform = write_and_unblock, .is_void = is_gone};
    event_loop_post(&waiter->task);
}

/* ---- clients that wait for the loader ---------------------------------------------------------------------------- */

static void job_finished(LoaderJob *job) {
    JobWaiter *waiter = job->data;
    waiter_end(&waiter->waiter, waiter->waiter.write && job->error == NULL);
}

static void free_job_waiter(RedisModuleCtx *ctx, Waiter *waiter) {
    JobWaiter *job_waiter = (JobWaiter *)waiter;
    for (int i = 0; i < job_waiter->argc; i++) RedisModule_FreeString(NULL, job_waiter->argv[i]);
    RedisModule_Free(job_waiter->argv);
    job_free(job_waiter->job);
    RedisModule_Free(job_waiter);
}

int block_on_job(RedisModuleCtx *ctx, RedisModuleString **argv, int argc, LoaderJob *job, RedisModuleCmdFunc reply,
                 void (*write)(RedisModuleCtx *ctx, Waiter *waiter)) {
    JobWaiter *waiter = RedisModule_Calloc(1, sizeof(*waiter));
    *waiter = (JobWaiter){.waiter = {.write = write, .freed = free_job_waiter}, .job = job, .argc = argc};
    waiter->argv = RedisModule_Alloc(argc * sizeof(*argv));
    for (int i = 0; i < argc; i++) waiter->argv[i] = RedisModule_HoldString(NULL, argv[i]);
    if (waiter_block(ctx, &waiter->waiter, reply) == -1) {
        free_job_waiter(ctx, &waiter->waiter);
        return REDISMODULE_OK;
    }
    job->data = waiter;
    job->finished = job_finished;
    job_post(job);
    return REDISMODULE_OK;
}
