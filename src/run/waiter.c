/* waiter.c - clients that are blocked until a run or job has ended (waiter.h).
 *
 * Main thread, except waiter_end (any thread) and job_finished (loader). No locks. */
#include "run/waiter.h"

#include <stddef.h>
#include <stdint.h>

/* Redis 7.0 gives a disconnect callback only the blocked client's handle, so this table finds the waiter. */
#define BUCKETS 4096
#define PART 64 /* buckets; of 100,000 waiters, 1,600 */
static Waiter *waiters[BUCKETS];

static Waiter **bucket_of(RedisModuleBlockedClient *blocked) { return &waiters[((uintptr_t)blocked >> 6) % BUCKETS]; }

static Waiter *find(RedisModuleBlockedClient *blocked) {
    Waiter *waiter = *bucket_of(blocked);
    while (waiter && waiter->blocked != blocked) waiter = waiter->next;
    return waiter;
}

static void leave(Waiter *waiter) {
    waiter->is_gone = 1;
    if (waiter->gone) waiter->gone(waiter);
}

/* Servers before Redis 7.4 and Valkey 8 forget a client that CLIENT UNBLOCK ... TIMEOUT finds when it is about to be
 * answered: they call disconnected() instead of timed_out(), and nobody answers. */
#define FORGETS_CLIENTS (RedisModule_AddACLCategory == NULL)

/* Also by CLIENT UNBLOCK ... ERROR: then the server has answered. */
static void disconnected(RedisModuleCtx *ctx, RedisModuleBlockedClient *blocked) {
    Waiter *waiter = find(blocked);
    if (waiter == NULL) return;
    waiter->is_lost = FORGETS_CLIENTS && __atomic_load_n(&waiter->is_ended, __ATOMIC_ACQUIRE);
    leave(waiter);
}

/* CLIENT UNBLOCK ... TIMEOUT. What was written already is answered as it is. */
static int timed_out(RedisModuleCtx *ctx, RedisModuleString **argv, int argc) {
    Waiter *waiter = find(RedisModule_GetBlockedClientHandle(ctx));
    if (waiter->is_written) {
        waiter->is_gone = 1;
        return waiter->reply(ctx, argv, argc);
    }
    leave(waiter);
    return RedisModule_ReplyWithSimpleString(ctx, "TIMEDOUT");
}

static void freed(RedisModuleCtx *ctx, void *data) {
    Waiter *waiter = data;
    /* Without an answer the client would take the next one for it. */
    if (waiter->is_lost) RedisModule_DeauthenticateAndCloseClient(ctx, waiter->client);
    Waiter **at = bucket_of(waiter->blocked);
    while (*at != waiter) at = &(*at)->next;
    *at = waiter->next;
    waiter->freed(ctx, waiter);
}

int waiter_block(RedisModuleCtx *ctx, Waiter *waiter, RedisModuleCmdFunc reply) {
    waiter->blocked = RedisModule_BlockClient(ctx, reply, timed_out, freed, 0);
    if (waiter->blocked == NULL) {
        RedisModule_ReplyWithError(ctx, "ERR this client cannot be blocked");
        return -1;
    }
    waiter->reply = reply;
    waiter->client = RedisModule_GetClientId(ctx);
    waiter->db = RedisModule_GetSelectedDb(ctx);
    RedisModule_SetDisconnectCallback(waiter->blocked, disconnected);
    Waiter **bucket = bucket_of(waiter->blocked);
    waiter->next = *bucket;
    *bucket = waiter;
    return 0;
}

int waiter_visit(int at, void (*visit)(void *data, Waiter *waiter), void *data) {
    for (int end = at + PART; at < end; at++) {
        for (Waiter *waiter = waiters[at]; waiter; waiter = waiter->next) visit(data, waiter);
    }
    return at % BUCKETS;
}

void waiter_begin(Waiter *waiter) {
    RedisModule_BlockedClientMeasureTimeStart(waiter->blocked);
    __atomic_store_n(&waiter->is_timed, 1, __ATOMIC_RELEASE);
}

_Static_assert(offsetof(Waiter, task) == 0, "a Task is cast to the Waiter that begins with it");
_Static_assert(offsetof(JobWaiter, waiter) == 0, "a Waiter is cast to the JobWaiter that begins with it");

static void end(Waiter *waiter) {
    __atomic_store_n(&waiter->is_ended, 1, __ATOMIC_RELEASE);
    RedisModule_UnblockClient(waiter->blocked, waiter);
}

static void write_and_unblock(RedisModuleCtx *ctx, Task *task) {
    Waiter *waiter = (Waiter *)task;
    if (waiter->writes && !waiter->is_gone) {
        RedisModule_SelectDb(ctx, waiter->db);
        waiter->write(ctx, waiter);
        waiter->is_written = 1;
    }
    end(waiter);
}

static void write_alone(RedisModuleCtx *ctx, Task *task) {
    Waiter *waiter = (Waiter *)task;
    waiter->write(ctx, waiter);
    waiter->freed(ctx, waiter);
}

static int is_void(const Task *task) {
    const Waiter *waiter = (const Waiter *)task;
    return !waiter->writes || waiter->is_gone;
}

void waiter_end(Waiter *waiter, int writes) {
    if (waiter->is_alone) {
        waiter->task = (Task){.perform = write_alone};
        event_loop_post(&waiter->task);
        return;
    }
    if (__atomic_load_n(&waiter->is_timed, __ATOMIC_ACQUIRE)) {
        RedisModule_BlockedClientMeasureTimeEnd(waiter->blocked);
    }
    waiter->writes = writes;
    /* Redis 7.0 answers right after it has performed tasks, so then CLIENT UNBLOCK finds no such client. */
    if (!writes && !FORGETS_CLIENTS) {
        end(waiter);
        return;
    }
    waiter->task = (Task){.perform = write_and_unblock, .is_void = is_void};
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
    waiter_begin(&waiter->waiter);
    return REDISMODULE_OK;
}
