/* stats.h - what AI.INFO tells of a model or script. Any thread: counters are atomic, and read one by one. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#define BATCH_BUCKETS 16

typedef struct Stats {
    int64_t calls; /* atomic, like all of these */
    int64_t errors;
    int64_t duration; /* us */
    int64_t samples;
    int64_t executions;        /* a batch counts once */
    int64_t direct_executions; /* those that C ran by the library's C API (direct/) */
    int64_t refused;           /* runs, for the model's MAXQUEUE (run/limits.c) */
    int64_t deaths;            /* engine processes that have ended while they ran or compiled it (isolation/) */
    int64_t cache_hits;        /* runs answered from memory: no others of these count them (values/cache.h) */
    int64_t cache_misses;
    int64_t timeouts;  /* runs of clients that got TIMEDOUT meanwhile */
    int64_t abandoned; /* runs of clients that have left meanwhile, or were unblocked */
    int64_t input_ns;  /* of the duration, as far as Op tells */
    int64_t output_ns;
    int64_t last;                   /* ns of the monotonic clock: the end of the latest run; 0: none */
    int64_t batches[BATCH_BUCKETS]; /* executions by their rows: up to 1, 2, 4, 8 ... and any number */
    struct Histogram *queue_times;  /* us; NULL until first needed: most of many stored models may never run */
    struct Histogram *run_times;
} Stats;

/* One op that was executed. */
typedef struct Execution {
    int64_t duration; /* us; -1: it ran in a batch, whose execution another op counts */
    int64_t queued;   /* us that it waited for a worker or a batch; -1: it never waited */
    int64_t samples;
    int64_t rows; /* of the batch */
    int64_t input_ns, output_ns;
    int64_t end; /* ns */
    int is_direct;
    int failed;
} Execution;

/* us */
typedef struct Times {
    int64_t mean, p50, p99, max, sum;
} Times;

void stats_count(Stats *stats, const Execution *execution);
void stats_count_given_up(Stats *stats, int has_timed_out);
void stats_count_lookup(Stats *stats, int is_hit);

void stats_reset(Stats *stats);
void stats_free(Stats *stats); /* what it points to */

int64_t stats_get(const int64_t *counter);
Times stats_times(struct Histogram *const *histogram);

/* Bytes that the figures take beyond the struct itself. */
size_t stats_memory(const Stats *stats);
