/* waiter.h - a client that is blocked until a run or job has ended. Then its keys are written, and then it is answered.
 *
 * The reply callback writes nothing: Redis 8 and Valkey read commands before they call it, and one of these may pause
 * writes, start a failover or make the server a replica. */
#pragma once

#include "engine/jobs.h"
#include "redis/event_loop.h"

/* Part of what the client waits for, which its owner allocates. The waiter is the private data of the reply. */
typedef struct Waiter {
    Task task;
    RedisModuleBlockedClient *blocked;
    RedisModuleCmdFunc reply;
    uint64_t client; /* its id */
    int db;          /* that it has selected */
    int is_alone;    /* nobody waits: write is called in the end, and then freed */
    int is_timed;    /* atomic: the time counts that the client waits after its command has returned */
    int is_gone;     /* main thread: it waits no more (disconnected, CLIENT UNBLOCK); write nothing for it */
    int writes;      /* write is to be called */
    int is_written;  /* main thread: write was called */
    int is_ended;    /* atomic: the server has been told to answer */
    int is_lost;     /* main thread: but it will not */
    /* All on the main thread. write: sets keys, in that database, before the answer; gone: NULL, or told when is_gone
     * is set; freed: the last call. */
    void (*write)(RedisModuleCtx *ctx, struct Waiter *waiter);
    void (*gone)(struct Waiter *waiter);
    void (*freed)(RedisModuleCtx *ctx, struct Waiter *waiter);
    struct Waiter *next; /* in the table of all */
} Waiter;

/* Blocks the client; -1 after replying an error. */
int waiter_block(RedisModuleCtx *ctx, Waiter *waiter, RedisModuleCmdFunc reply);

/* At the end of the command, whose own time the server counts: the client's wait counts from here on. */
void waiter_begin(Waiter *waiter);

/* Has the client answered, after waiter->write if `writes` is set. Any thread; once for each waiter. */
void waiter_end(Waiter *waiter, int writes);

/* Main thread: visits the waiters that are not freed yet, a part of them at a time. at: 0, then what it has returned.
 * Returns 0 after the last part. */
int waiter_visit(int at, void (*visit)(void *data, Waiter *waiter), void *data);

/* A client that waits for the loader, and its command. */
typedef struct JobWaiter {
    Waiter waiter;
    LoaderJob *job;
    RedisModuleString **argv;
    int argc;
    const char *refusal; /* why nothing was written; NULL: it was */
} JobWaiter;

/* Blocks the client and posts the job. When it has succeeded, write (NULL: none) is called, then reply, both with the
 * JobWaiter. Main thread. */
int block_on_job(RedisModuleCtx *ctx, RedisModuleString **argv, int argc, LoaderJob *job, RedisModuleCmdFunc reply,
                 void (*write)(RedisModuleCtx *ctx, Waiter *waiter));
