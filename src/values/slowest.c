/* slowest.c - the slowest runs of a model or script (slowest.h).
 *
 * Workers add, the main thread reads and resets. Lock: mutex, one of each model, a leaf, held for a few copies. Only a
 * run that is slower than one of those that are kept takes it. */
#include "values/slowest.h"

#include <pthread.h>
#include <string.h>
#include <time.h>

#include "redis/api.h"

typedef struct SlowestRuns {
    pthread_mutex_t mutex;
    int count;
    SlowRun runs[SLOWEST_RUNS]; /* the slowest first */
} SlowestRuns;

void slowest_init(Slowest *slowest) { slowest->least = -1; }

static SlowestRuns *runs_at(Slowest *slowest) {
    SlowestRuns *there = __atomic_load_n(&slowest->runs, __ATOMIC_ACQUIRE);
    if (there) return there;
    SlowestRuns *new = RedisModule_Calloc(1, sizeof(*new));
    pthread_mutex_init(&new->mutex, NULL);
    if (__atomic_compare_exchange_n(&slowest->runs, &there, new, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) return new;
    RedisModule_Free(new);
    return there;
}

void slowest_add(Slowest *slowest, SlowRun run) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    run.time = now.tv_sec * 1000LL + now.tv_nsec / 1000000;
    SlowestRuns *kept = runs_at(slowest);
    pthread_mutex_lock(&kept->mutex);
    int at = kept->count;
    while (at > 0 && kept->runs[at - 1].duration < run.duration) at--;
    if (at < SLOWEST_RUNS) {
        if (kept->count < SLOWEST_RUNS) kept->count++;
        memmove(&kept->runs[at + 1], &kept->runs[at], (kept->count - at - 1) * sizeof(run));
        kept->runs[at] = run;
    }
    if (kept->count == SLOWEST_RUNS) {
        __atomic_store_n(&slowest->least, kept->runs[SLOWEST_RUNS - 1].duration, __ATOMIC_RELAXED);
    }
    pthread_mutex_unlock(&kept->mutex);
}

int slowest_get(const Slowest *slowest, SlowRun runs[SLOWEST_RUNS]) {
    SlowestRuns *kept = __atomic_load_n(&slowest->runs, __ATOMIC_ACQUIRE);
    if (kept == NULL) return 0;
    pthread_mutex_lock(&kept->mutex);
    int count = kept->count;
    memcpy(runs, kept->runs, count * sizeof(*runs));
    pthread_mutex_unlock(&kept->mutex);
    return count;
}

void slowest_reset(Slowest *slowest) {
    SlowestRuns *kept = __atomic_load_n(&slowest->runs, __ATOMIC_ACQUIRE);
    if (kept == NULL) return;
    pthread_mutex_lock(&kept->mutex);
    kept->count = 0;
    __atomic_store_n(&slowest->least, -1, __ATOMIC_RELAXED);
    pthread_mutex_unlock(&kept->mutex);
}

size_t slowest_memory(const Slowest *slowest) {
    const SlowestRuns *kept = __atomic_load_n(&slowest->runs, __ATOMIC_ACQUIRE);
    return kept ? RedisModule_MallocSize((void *)kept) : 0;
}

void slowest_free(Slowest *slowest) { RedisModule_Free(slowest->runs); }
