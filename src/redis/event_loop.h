/* event_loop.h - what the module does in each iteration of Redis's event loop. */
#pragma once

#include "redis/api.h"

typedef struct LoopListener {
    void (*begin)(void); /* the loop has slept, commands come next */
    void (*end)(void);   /* the loop is about to sleep */
} LoopListener;

/* At load; REDISMODULE_ERR where the server cannot tell. The listener must stay. */
int event_loop_init(RedisModuleCtx *ctx, const LoopListener *listener);

/* What the main thread shall do when writing is allowed. Whoever embeds it owns the memory. */
typedef struct Task {
    void (*perform)(RedisModuleCtx *ctx, struct Task *task); /* may free it */
    int (*is_void)(const struct Task *); /* writes nothing any more, so a pause does not hold it; NULL: never */
    struct Task *next;
} Task;

/* Has the main thread perform the task at the end of an iteration, in the order of posting (a pause or large values may
 * change it). Any thread. While writes are paused (CLIENT PAUSE, a failover, a shutdown that waits for replicas) it
 * waits: Redis aborts when something is replicated then. The task gets a context without client, for any database and
 * user: what it writes is replicated when the iteration has performed its tasks, all in one MULTI. */
void event_loop_post(Task *task);

/* Adds ns to the time for which commands have made all clients wait in this iteration, and returns the sum. A
 * transaction or a script is part of one iteration. Main thread. */
int64_t event_loop_add_stall(int64_t ns);

/* Tells that a task has written a value of so many bytes. After many bytes, the other tasks wait for the next
 * iteration: GET must not wait until all are copied for the replicas. Main thread. */
void event_loop_note_written(size_t bytes);

/* Has the server tell of events of this kind (REDISMODULE_EVENT_...). Several may listen to one kind: the server itself
 * would tell only the last of a module. At load. */
int listen_to(RedisModuleCtx *ctx, uint64_t event, RedisModuleEventCallback callback);
