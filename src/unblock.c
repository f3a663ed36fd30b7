/* unblock.c - answering clients whose commands write, when writing is allowed (unblock.h).
 *
 * Workers and the loader append, the main thread delivers. Lock: pending.mutex, held for a few pointer moves only, a
 * leaf. `first` is atomic too, for the main thread looks at each turn of its loop whether there is anything. */
#include "unblock.h"

#include <pthread.h>

#include "queue.h"

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

static void turn_loop(void *unused) {
    (void)unused;
}

static void turn_loop_again(RedisModuleCtx *ctx, void *unused) {
    (void)ctx;
    (void)unused;
    pending.has_timer = 0;
}

/* Redis runs reply callbacks right behind this event, before it reads another command: one that pauses writes cannot
 * come between the question and the writing. Anywhere else it could. */
static void before_sleep(RedisModuleCtx *ctx, RedisModuleEvent event, uint64_t subevent, void *data) {
    (void)event;
    (void)data;
    if (subevent != REDISMODULE_SUBEVENT_EVENTLOOP_BEFORE_SLEEP) return;
    queue_end_turn();
    if (__atomic_load_n(&pending.first, __ATOMIC_ACQUIRE) == NULL) return;
    if (RedisModule_AvoidReplicaTraffic()) {
        if (!pending.has_timer) RedisModule_CreateTimer(ctx, RETRY_MS, turn_loop_again, NULL);
        pending.has_timer = 1;
        return;
    }
    pthread_mutex_lock(&pending.mutex);
    Pending *next = pending.first;
    __atomic_store_n(&pending.first, NULL, __ATOMIC_RELEASE);
    pending.last = NULL;
    pthread_mutex_unlock(&pending.mutex);
    while (next) {
        Pending *done = next;
        next = done->next;
        RedisModule_UnblockClient(done->blocked, done->privdata);
        RedisModule_Free(done);
    }
}

int unblock_init(RedisModuleCtx *ctx) {
    return RedisModule_SubscribeToServerEvent(ctx, (RedisModuleEvent){REDISMODULE_EVENT_EVENTLOOP, 1}, before_sleep);
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
    if (was_empty) RedisModule_EventLoopAddOneShot(turn_loop, NULL); /* the loop may sleep; one turn takes all */
}
