/* watch.c - ends runs that take longer than MODEL_EXECUTION_TIMEOUT, or that shall end, where the library lets us
 * (direct.h).
 *
 * Workers enter, and the main thread for AI.KILL. A thread of its own, started by the first run, sleeps until the first
 * deadline. While nothing runs it waits for the next run; once woken it sleeps for a whole timeout, so at most one run
 * in that time pays for waking it. Lock: watch.mutex, a leaf; terminate(), which sets a flag, is called under it. */
#include <pthread.h>

#include "direct/direct.h"
#include "engine/options.h"
#include "redis/api.h"
#include "redis/clock.h"
#include "run/state.h"

/* One of each worker. Workers do not end. */
typedef struct Watched {
    const Op *op; /* with all that it stands for */
    void *options;
    void *(*terminate)(void *options);
    int64_t deadline; /* 0: it runs nothing */
    int is_ended;
    int is_known; /* it is in the list */
    struct Watched *next;
} Watched;

static struct {
    pthread_mutex_t mutex;
    pthread_cond_t begun;
    Watched *first;
    int is_started;
    int is_idle;
} watch = {.mutex = PTHREAD_MUTEX_INITIALIZER};

static _Thread_local Watched mine;

/* Ends what has passed its deadline. Returns the first deadline of the others; 0: there are none. */
static int64_t end_overdue(int64_t now) {
    int64_t wake = 0;
    for (Watched *watched = watch.first; watched; watched = watched->next) {
        if (watched->deadline == 0) continue;
        if (watched->deadline <= now) {
            watched->deadline = 0;
            watched->is_ended = 1;
            watched->terminate(watched->options);
        } else if (wake == 0 || watched->deadline < wake) {
            wake = watched->deadline;
        }
    }
    return wake;
}

static void *watch_main(void *unused) {
    pthread_mutex_lock(&watch.mutex);
    for (;;) {
        int64_t wake = end_overdue(monotonic_ns());
        watch.is_idle = wake == 0;
        while (watch.is_idle) pthread_cond_wait(&watch.begun, &watch.mutex);
        struct timespec until = monotonic_timespec(wake ? wake : monotonic_ns() + model_execution_timeout() * 1000000);
        while (pthread_cond_timedwait(&watch.begun, &watch.mutex, &until) == 0) {
        }
    }
    return NULL;
}

static void start(void) {
    pthread_t thread;
    monotonic_cond_init(&watch.begun);
    watch.is_started = pthread_create(&thread, NULL, watch_main, NULL) == 0;
    if (watch.is_started) {
        pthread_detach(thread);
    } else {
        RedisModule_Log(log_context, "warning",
                        "no thread can be started that ends runs after their time; "
                        "the next run tries again");
    }
}

void watch_begin(const Op *op, void *options, void *(*terminate)(void *options)) {
    int64_t deadline = monotonic_ns() + model_execution_timeout() * 1000000;
    pthread_mutex_lock(&watch.mutex);
    if (!watch.is_started) start();
    if (!mine.is_known) {
        mine.is_known = 1;
        mine.next = watch.first;
        watch.first = &mine;
    }
    mine.op = op;
    mine.options = options;
    mine.terminate = terminate;
    mine.is_ended = 0;
    mine.deadline = deadline;
    int wakes = watch.is_idle;
    watch.is_idle = 0;
    pthread_mutex_unlock(&watch.mutex);
    if (wakes) pthread_cond_signal(&watch.begun);
}

int watch_end(void) {
    pthread_mutex_lock(&watch.mutex);
    mine.deadline = 0;
    int is_ended = mine.is_ended;
    pthread_mutex_unlock(&watch.mutex);
    return is_ended;
}

static int is_part(const Op *op, const Watched *watched) {
    const OpState *all = watched->op->state;
    for (int i = 0; i < all->nmembers; i++) {
        if (all->members[i] == op) return 1;
    }
    return watched->op == op;
}

int watch_find(const Op *op, int is_to_end) {
    pthread_mutex_lock(&watch.mutex);
    Watched *watched = watch.first;
    while (watched && (watched->deadline == 0 || !is_part(op, watched))) watched = watched->next;
    if (watched && is_to_end) watched->terminate(watched->options);
    pthread_mutex_unlock(&watch.mutex);
    return watched != NULL;
}
