/* unblock.c - answering clients whose commands write, when writing is allowed (unblock.h).
 *
 * Workers and the loader append, the main thread delivers. Lock: pending.mutex, held for a few pointer moves only, a
 * leaf. `first` is atomic too, for the main thread looks at each turn of its loop whether there is anything. The
 * queues are told from here when a turn begins and ends. */
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

static void wait_for_writes(RedisModuleCtx *ctx) {
    if (!pending.has_timer) RedisModule_CreateTimer(ctx, RETRY_MS, turn_loop_again, NULL);
    pending.has_timer = 1;
}

/* Workers end the wait of many clients at once. Answered in one turn of the loop, these would make all others wait: a
 * GET beside 50 clients of a tiny model took 300 us at the 99th percentile, and takes 200. With 8 a turn it would be
 * 100, but a tenth fewer runs. */
#define MOST_A_TURN 16
#define MOST_TURNS 4 /* that count as one for the queues */

/* Sets *more where there are more for the next turn, which comes at once. */
static Pending *take_some(int *more) {
    pthread_mutex_lock(&pending.mutex);
    Pending *first = pending.first, *last = first;
    for (int i = 1; i < MOST_A_TURN && last->next; i++) last = last->next;
    __atomic_store_n(&pending.first, last->next, __ATOMIC_RELEASE);
    if (last->next == NULL) pending.last = NULL;
    last->next = NULL;
    *more = pending.first != NULL;
    pthread_mutex_unlock(&pending.mutex);
    if (*more) RedisModule_EventLoopAddOneShot(turn_loop, NULL);
    return first;
}

/* Redis runs reply callbacks right behind this event, before it reads another command: one that pauses writes cannot
 * come between the question and the writing. Anywhere else it could. */
static void before_sleep(RedisModuleCtx *ctx, RedisModuleEvent event, uint64_t subevent, void *data) {
    (void)event;
    (void)data;
    if (subevent != REDISMODULE_SUBEVENT_EVENTLOOP_BEFORE_SLEEP) {
        queue_begin_turn();
        return;
    }
    static int turns; /* that left some for the next */
    if (__atomic_load_n(&pending.first, __ATOMIC_ACQUIRE) == NULL || RedisModule_AvoidReplicaTraffic()) {
        turns = 0;
        queue_end_turn();
        if (__atomic_load_n(&pending.first, __ATOMIC_ACQUIRE)) wait_for_writes(ctx);
        return;
    }
    int more;
    Pending *next = take_some(&more);
    turns = more ? turns + 1 : 0;
    if (turns % MOST_TURNS == 0) queue_end_turn();
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
