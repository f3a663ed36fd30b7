/* slowest.h - the slowest runs of a model or script, for AI.INFO. Any thread. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#define SLOWEST_RUNS 8
#define SLOWEST_FUNCTION 48

typedef struct SlowRun {
    int64_t time;                    /* ms of the Unix clock, when it ended */
    int64_t rows;                    /* of its batch */
    int64_t queued, duration;        /* us */
    uint64_t client;                 /* of the first run of a batch */
    char function[SLOWEST_FUNCTION]; /* of a script, cut; empty: none */
} SlowRun;

typedef struct Slowest {
    int64_t least;            /* atomic: a run that has taken as long as this, us, or less is none of them */
    struct SlowestRuns *runs; /* atomic; NULL until the first run */
} Slowest;

/* Asked for each run, so it costs one comparison. */
static inline int slowest_is(const Slowest *slowest, int64_t duration) {
    return duration > __atomic_load_n(&slowest->least, __ATOMIC_RELAXED);
}

/* Notes a run for which slowest_is() says yes. Sets its time. */
void slowest_add(Slowest *slowest, SlowRun run);

/* Copies them, the slowest first. Returns how many there are. */
int slowest_get(const Slowest *slowest, SlowRun runs[SLOWEST_RUNS]);

void slowest_init(Slowest *slowest);
void slowest_reset(Slowest *slowest);
void slowest_free(Slowest *slowest);
size_t slowest_memory(const Slowest *slowest); /* beyond the struct itself */
