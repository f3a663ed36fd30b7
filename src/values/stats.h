/* values/stats.h - what AI.INFO tells of a model or script. Any thread: counters are atomic, and read one by one. */
#ifndef STATS_H
#define STATS_H

#include "redis/api.h"
#include "values/runnable.h"

/* One op that was executed. */
typedef struct Execution {
    int64_t duration; /* us; -1: it ran in a batch, whose execution another op stands for */
    int64_t queued;   /* us that it waited for a worker or a batch; -1: it never waited */
    int64_t samples;
    int failed;
} Execution;

void stats_count(Runnable *runnable, const Execution *execution);

/* This many of its executions took the direct path (direct/). stats_count() counts each of them too, later. */
void stats_count_direct(Runnable *runnable, int64_t executions);
void stats_reset(Runnable *runnable);
void stats_free(Runnable *runnable);

/* Bytes that the figures take beyond the runnable itself. */
size_t stats_memory(const Runnable *runnable);

/* Replies the documented elements, or with `full` also those that an operator tunes by. */
void stats_reply(RedisModuleCtx *ctx, RedisModuleString *key, const Runnable *runnable, int full);

#endif
