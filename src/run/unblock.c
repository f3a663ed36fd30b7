/* unblock.c - answers blocked clients whose reply callbacks write (unblock.h).
 *
 * Workers and the loader append, the main thread delivers. Lock: pending.mutex, a leaf, held for a few pointer moves.
 * `first` is atomic too: the main thread reads it in each iteration of its loop without the lock. */
#include "run/unblock.h"

#include <pthread.h>

#include "redis/event_loop.h"

#define RETRY_MS 5

typedef struct Pending {
    RedisModuleBlockedClient *blocked;
    void *privdata;
    struct Pending *next;
} Pending;

static struct {
    pthread_mutex_t mutex;
    Pending *first;
    Pending *last;
    int has_timer; /* main thread only */
} pending = {.mutex = PTHREAD_MUTEX_INITIALIZER};

static void retry(RedisModuleCtx *ctx, void *unused) {
    (void)ctx;
    (void)unused;
    pending.has_timer = 0; /* the timer has started an iteration, which is all that is needed */
}

static int has_pending(void) {
    return __atomic_load_n(&pending.first, __ATOMIC_ACQUIRE) != NULL;
}

/* Workers unblock many clients at once. If one iteration answered them all, the others would wait: GET beside 50
 * clients of a tiny model took 300 us at the 99th percentile, and takes 200. With 8 it would take 100, but a tenth of
 * the runs would be lost. */
#define MAX_PER_ITERATION 16

/* Takes the clients of this iteration off the list. The rest are for the next one, which follows at once. */
static Pending *take_some(void) {
    pthread_mutex_lock(&pending.mutex);
    Pending *first = pending.first, *last = first;
    for (int i = 1; i < MAX_PER_ITERATION && last->next; i++) last = last->next;
    __atomic_store_n(&pending.first, last->next, __ATOMIC_RELEASE);
    if (last->next == NULL) pending.last = NULL;
    last->next = NULL;
    int more = pending.first != NULL;
    pthread_mutex_unlock(&pending.mutex);
    if (more) event_loop_continue();
    return first;
}

/* Redis runs reply callbacks right after this event and reads no command in between. So no command can pause writes
 * between the question and the write, as it could anywhere else. */
static void deliver(RedisModuleCtx *ctx, int is_last) {
    (void)is_last;
    if (!has_pending()) return;
    if (RedisModule_AvoidReplicaTraffic()) {
        if (!pending.has_timer) RedisModule_CreateTimer(ctx, RETRY_MS, retry, NULL);
        pending.has_timer = 1;
        return;
    }
    for (Pending *done = take_some(), *next; done; done = next) {
        next = done->next;
        RedisModule_UnblockClient(done->blocked, done->privdata);
        RedisModule_Free(done);
    }
}

void unblock_init(void) {
    static const LoopListener listener = {.end = deliver};
    event_loop_subscribe(&listener);
}

void unblock_to_write(RedisModuleBlockedClient *blocked, void *privdata) {
    Pending *new = RedisModule_Alloc(sizeof(*new));
    *new = (Pending){.blocked = blocked, .privdata = privdata};
    pthread_mutex_lock(&pending.mutex);
    int was_empty = pending.first == NULL;
    if (was_empty) {
        __atomic_store_n(&pending.first, new, __ATOMIC_RELEASE);
    } else {
        pending.last->next = new;
    }
    pending.last = new;
    pthread_mutex_unlock(&pending.mutex);
    if (was_empty) event_loop_wake(); /* the loop may sleep; one iteration sees all */
}

/* ---- clients that wait for the loader ---------------------------------------------------------------------------- */

static void unblock_after_job(LoaderJob *job) {
    RedisModule_BlockedClientMeasureTimeEnd(job->data);
    unblock_to_write(job->data, job);
}

static void free_blocked_job(RedisModuleCtx *ctx, void *job) {
    (void)ctx;
    job_free(job);
}

int block_on_job(RedisModuleCtx *ctx, LoaderJob *job, RedisModuleCmdFunc reply) {
    job->data = RedisModule_BlockClient(ctx, reply, NULL, free_blocked_job, 0);
    if (job->data == NULL) {
        job_free(job);
        RedisModule_ReplyWithError(ctx, "ERR this client cannot be blocked");
        return REDISMODULE_OK;
    }
    job->finished = unblock_after_job;
    RedisModule_BlockedClientMeasureTimeStart(job->data);
    job_post(job);
    return REDISMODULE_OK;
}
