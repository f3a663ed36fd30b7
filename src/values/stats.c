/* values/stats.c - statistics of models and scripts (values/stats.h).
 *
 * Workers count, the main thread reads and resets. Everything is atomic and relaxed: figures that belong together may
 * be one execution apart while workers run. */
#include "values/stats.h"

#include "redis/command.h"
#include "values/backend.h"

/* Times in us, with a relative error of 6 %: 8 buckets from each power of two to the next, one each below 8. */
#define BUCKETS (8 * 40)

typedef struct Histogram {
    int64_t count, sum, most;
    int64_t buckets[BUCKETS];
} Histogram;

static int bucket_of(int64_t time) {
    if (time < 8) return time < 0 ? 0 : (int)time;
    int power = 63 - __builtin_clzll(time);
    int bucket = (power - 2) * 8 + (int)(time >> (power - 3) & 7);
    return bucket < BUCKETS ? bucket : BUCKETS - 1;
}

/* The middle of a bucket. */
static int64_t time_of(int bucket) {
    if (bucket < 8) return bucket;
    int shift = bucket / 8 - 1;
    return ((int64_t)(8 + bucket % 8) << shift) + ((1LL << shift) >> 1);
}

static void add(int64_t *counter, int64_t number) {
    __atomic_add_fetch(counter, number, __ATOMIC_RELAXED);
}

static int64_t get(const int64_t *counter) {
    return __atomic_load_n(counter, __ATOMIC_RELAXED);
}

/* Made on first use: most of many stored models may never run. */
static Histogram *histogram_at(Histogram **at) {
    Histogram *there = __atomic_load_n(at, __ATOMIC_ACQUIRE);
    if (there) return there;
    Histogram *new = RedisModule_Calloc(1, sizeof(*new));
    if (__atomic_compare_exchange_n(at, &there, new, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) return new;
    RedisModule_Free(new);
    return there;
}

static void record(Histogram **at, int64_t time) {
    Histogram *histogram = histogram_at(at);
    add(&histogram->count, 1);
    add(&histogram->sum, time);
    add(&histogram->buckets[bucket_of(time)], 1);
    int64_t most = get(&histogram->most);
    while (time > most &&
           !__atomic_compare_exchange_n(&histogram->most, &most, time, 0, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    }
}

void stats_count(Runnable *runnable, const Execution *execution) {
    add(&runnable->state->stats.calls, 1);
    add(&runnable->state->stats.samples, execution->samples);
    if (execution->failed) add(&runnable->state->stats.errors, 1);
    if (execution->queued >= 0) record(&runnable->state->stats.queue_times, execution->queued);
    if (execution->duration < 0) return;
    add(&runnable->state->stats.executions, 1);
    add(&runnable->state->stats.duration, execution->duration);
    record(&runnable->state->stats.run_times, execution->duration);
}

void stats_count_direct(Runnable *runnable, int64_t executions) {
    add(&runnable->state->stats.direct_executions, executions);
}

static void clear(int64_t *counter) {
    __atomic_store_n(counter, 0, __ATOMIC_RELAXED);
}

static void clear_histogram(Histogram *histogram) {
    if (histogram == NULL) return;
    clear(&histogram->count);
    clear(&histogram->sum);
    clear(&histogram->most);
    for (int i = 0; i < BUCKETS; i++) clear(&histogram->buckets[i]);
}

void stats_reset(Runnable *runnable) {
    clear(&runnable->state->stats.calls);
    clear(&runnable->state->stats.errors);
    clear(&runnable->state->stats.duration);
    clear(&runnable->state->stats.samples);
    clear(&runnable->state->stats.executions);
    clear(&runnable->state->stats.direct_executions);
    clear_histogram(__atomic_load_n(&runnable->state->stats.queue_times, __ATOMIC_ACQUIRE));
    clear_histogram(__atomic_load_n(&runnable->state->stats.run_times, __ATOMIC_ACQUIRE));
}

void stats_free(Runnable *runnable) {
    RedisModule_Free(runnable->state->stats.queue_times);
    RedisModule_Free(runnable->state->stats.run_times);
}

size_t stats_memory(const Runnable *runnable) {
    Histogram *times[] = {__atomic_load_n(&runnable->state->stats.queue_times, __ATOMIC_ACQUIRE),
                          __atomic_load_n(&runnable->state->stats.run_times, __ATOMIC_ACQUIRE)};
    return (times[0] ? RedisModule_MallocSize(times[0]) : 0) + (times[1] ? RedisModule_MallocSize(times[1]) : 0);
}

/* ---- AI.INFO ----------------------------------------------------------------------------------------------------- */

/* The time that this share of all times does not exceed. */
static int64_t percentile(const Histogram *histogram, double share) {
    int64_t count = 0, most = get(&histogram->most);
    for (int i = 0; i < BUCKETS; i++) count += get(&histogram->buckets[i]);
    int64_t below = 0, wanted = (int64_t)(count * share);
    for (int i = 0; i < BUCKETS; i++) {
        below += get(&histogram->buckets[i]);
        if (below > wanted) return time_of(i) < most ? time_of(i) : most;
    }
    return most;
}

static void reply_text(RedisModuleCtx *ctx, const char *field, const char *text) {
    RedisModule_ReplyWithCString(ctx, field);
    RedisModule_ReplyWithCString(ctx, text);
}

static void reply_times(RedisModuleCtx *ctx, const char *const fields[4], Histogram *const *at) {
    static const Histogram none;
    const Histogram *histogram = __atomic_load_n(at, __ATOMIC_ACQUIRE);
    if (histogram == NULL) histogram = &none;
    int64_t count = get(&histogram->count);
    reply_number(ctx, fields[0], count ? get(&histogram->sum) / count : 0);
    reply_number(ctx, fields[1], percentile(histogram, 0.5));
    reply_number(ctx, fields[2], percentile(histogram, 0.99));
    reply_number(ctx, fields[3], get(&histogram->most));
}

static void reply_full(RedisModuleCtx *ctx, const Runnable *runnable) {
    static const char *const queue[] = {"queue_time_mean", "queue_time_p50", "queue_time_p99", "queue_time_max"};
    static const char *const run[] = {"run_time_mean", "run_time_p50", "run_time_p99", "run_time_max"};
    int64_t executions = get(&runnable->state->stats.executions);
    double batch = executions ? (double)get(&runnable->state->stats.samples) / executions : 0;
    reply_number(ctx, "executions", executions);
    reply_number(ctx, "direct_executions", get(&runnable->state->stats.direct_executions));
    RedisModule_ReplyWithCString(ctx, "average_batch");
    RedisModule_ReplyWithDouble(ctx, runnable->kind == KIND_MODEL ? batch : -1);
    reply_times(ctx, queue, &runnable->state->stats.queue_times);
    reply_times(ctx, run, &runnable->state->stats.run_times);
}

void stats_reply(RedisModuleCtx *ctx, RedisModuleString *key, const Runnable *runnable, int full) {
    int is_model = runnable->kind == KIND_MODEL;
    RedisModule_ReplyWithArray(ctx, full ? 18 + 22 : 18);
    RedisModule_ReplyWithCString(ctx, "key");
    RedisModule_ReplyWithString(ctx, key);
    reply_text(ctx, "type", is_model ? "MODEL" : "SCRIPT");
    reply_text(ctx, "backend", backend_name(runnable->backend));
    reply_text(ctx, "device", runnable->device);
    RedisModule_ReplyWithCString(ctx, "tag");
    RedisModule_ReplyWithStringBuffer(ctx, runnable->tag, runnable->tag_size);
    reply_number(ctx, "duration", get(&runnable->state->stats.duration));
    reply_number(ctx, "samples", is_model ? get(&runnable->state->stats.samples) : -1);
    reply_number(ctx, "calls", get(&runnable->state->stats.calls));
    reply_number(ctx, "errors", get(&runnable->state->stats.errors));
    if (full) reply_full(ctx, runnable);
}
