/* unblock.c - answering clients whose commands write, when writing is allowed (unblock.h).
 *
 * Workers and the loader append, the main thread delivers. Lock: pending.mutex, held for a few pointer moves only, a
 * leaf. */
#include "unblock.h"

#include <pthread.h>

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
} pending = {.mutex = PTHREAD_MUTEX_INITIALIZER};

static void deliver(void *unused);

static void deliver_again(RedisModuleCtx *ctx, void *unused) {
    (void)ctx;
    deliver(unused);
}

static void deliver(void *unused) {
    /* Only the main thread may ask, so a worker cannot unblock its client by itself. */
    if (RedisModule_AvoidReplicaTraffic()) {
        RedisModule_CreateTimer(log_context, RETRY_MS, deliver_again, unused);
        return;
    }
    pthread_mutex_lock(&pending.mutex);
    Pending *next = pending.first;
    pending.first = pending.last = NULL;
    pthread_mutex_unlock(&pending.mutex);
    while (next) {
        Pending *done = next;
        next = done->next;
        RedisModule_UnblockClient(done->blocked, done->privdata);
        RedisModule_Free(done);
    }
}

void unblock_to_write(RedisModuleBlockedClient *blocked, void *privdata) {
    Pending *new = RedisModule_Alloc(sizeof(*new));
    *new = (Pending){.blocked = blocked, .privdata = privdata};
    pthread_mutex_lock(&pending.mutex);
    int was_empty = pending.first == NULL;
    if (was_empty) {
        pending.first = new;
    } else {
        pending.last->next = new;
    }
    pending.last = new;
    pthread_mutex_unlock(&pending.mutex);
    if (was_empty) RedisModule_EventLoopAddOneShot(deliver, NULL); /* one delivery takes all that came until then */
}
