/* stats.c - statistics of models and scripts (stats.h).
 *
 * Workers count, the main thread reads and resets. Everything is atomic and relaxed: while workers run, figures that
 * belong together may be one execution apart. */
#include "values/stats.h"

#include "redis/api.h"

/* Times in us with a relative error of 6 %: 8 buckets per power of two, and one for each time below 8. */
#define BUCKETS (8 * 40)

typedef struct Histogram {
    int64_t count, sum, max;
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

static void add(int64_t *counter, int64_t number) { __atomic_add_fetch(counter, number, __ATOMIC_RELAXED); }
int64_t stats_get(const int64_t *counter) { return __atomic_load_n(counter, __ATOMIC_RELAXED); }

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
    int64_t max = stats_get(&histogram->max);
    while (time > max &&
           !__atomic_compare_exchange_n(&histogram->max, &max, time, 0, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    }
}

/* By the next power of two. */
static int batch_bucket(int64_t rows) {
    int bucket = rows <= 1 ? 0 : 64 - __builtin_clzll(rows - 1);
    return bucket < BATCH_BUCKETS ? bucket : BATCH_BUCKETS - 1;
}

void stats_count(Stats *stats, const Execution *execution) {
    add(&stats->calls, 1);
    add(&stats->samples, execution->samples);
    if (execution->failed) add(&stats->errors, 1);
    if (execution->queued >= 0) record(&stats->queue_times, execution->queued);
    if (execution->duration < 0) return;
    add(&stats->executions, 1);
    add(&stats->direct_executions, execution->is_direct);
    add(&stats->duration, execution->duration);
    add(&stats->batches[batch_bucket(execution->rows)], 1);
    if (execution->input_ns > 0) add(&stats->input_ns, execution->input_ns);
    if (execution->output_ns > 0) add(&stats->output_ns, execution->output_ns);
    __atomic_store_n(&stats->last, execution->end, __ATOMIC_RELAXED);
    record(&stats->run_times, execution->duration);
}

void stats_count_given_up(Stats *stats, int has_timed_out) {
    add(has_timed_out ? &stats->timeouts : &stats->abandoned, 1);
}

void stats_count_lookup(Stats *stats, int is_hit) { add(is_hit ? &stats->cache_hits : &stats->cache_misses, 1); }

static void clear(int64_t *counter) { __atomic_store_n(counter, 0, __ATOMIC_RELAXED); }

static void clear_histogram(Histogram *histogram) {
    if (histogram == NULL) return;
    clear(&histogram->count);
    clear(&histogram->sum);
    clear(&histogram->max);
    for (int i = 0; i < BUCKETS; i++) clear(&histogram->buckets[i]);
}

void stats_reset(Stats *stats) {
    clear(&stats->calls);
    clear(&stats->errors);
    clear(&stats->duration);
    clear(&stats->samples);
    clear(&stats->executions);
    clear(&stats->direct_executions);
    clear(&stats->refused);
    clear(&stats->deaths);
    clear(&stats->cache_hits);
    clear(&stats->cache_misses);
    clear(&stats->timeouts);
    clear(&stats->abandoned);
    clear(&stats->input_ns);
    clear(&stats->output_ns);
    clear(&stats->last);
    for (int i = 0; i < BATCH_BUCKETS; i++) clear(&stats->batches[i]);
    clear_histogram(__atomic_load_n(&stats->queue_times, __ATOMIC_ACQUIRE));
    clear_histogram(__atomic_load_n(&stats->run_times, __ATOMIC_ACQUIRE));
}

void stats_free(Stats *stats) {
    RedisModule_Free(stats->queue_times);
    RedisModule_Free(stats->run_times);
}

size_t stats_memory(const Stats *stats) {
    Histogram *times[] = {__atomic_load_n(&stats->queue_times, __ATOMIC_ACQUIRE),
                          __atomic_load_n(&stats->run_times, __ATOMIC_ACQUIRE)};
    return (times[0] ? RedisModule_MallocSize(times[0]) : 0) + (times[1] ? RedisModule_MallocSize(times[1]) : 0);
}

/* The time that this share of all times does not exceed. */
static int64_t percentile(const Histogram *histogram, double share) {
    int64_t count = 0, max = stats_get(&histogram->max);
    for (int i = 0; i < BUCKETS; i++) count += stats_get(&histogram->buckets[i]);
    int64_t below = 0, wanted = (int64_t)(count * share);
    for (int i = 0; i < BUCKETS; i++) {
        below += stats_get(&histogram->buckets[i]);
        if (below > wanted) return time_of(i) < max ? time_of(i) : max;
    }
    return max;
}

Times stats_times(struct Histogram *const *at) {
    const Histogram *histogram = __atomic_load_n(at, __ATOMIC_ACQUIRE);
    if (histogram == NULL) return (Times){0};
    int64_t count = stats_get(&histogram->count);
    return (Times){.mean = count ? stats_get(&histogram->sum) / count : 0,
                   .p50 = percentile(histogram, 0.5),
                   .p99 = percentile(histogram, 0.99),
                   .max = stats_get(&histogram->max),
                   .sum = stats_get(&histogram->sum)};
}
