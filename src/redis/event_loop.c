/* event_loop.c - tells listeners when an iteration of Redis's event loop begins and ends (event_loop.h).
 *
 * Main thread only, except event_loop_wake. No locks. */
#include "redis/event_loop.h"

#define MAX_LISTENERS 4
#define MAX_ITERATIONS 4 /* that may follow each other before listeners are told that one is the last */

static const LoopListener *listeners[MAX_LISTENERS];
static int count;
static int iterations; /* that have followed each other without a sleep */
static int continues;

static void do_nothing(void *unused) {
    (void)unused;
}

void event_loop_wake(void) {
    RedisModule_EventLoopAddOneShot(do_nothing, NULL);
}

void event_loop_continue(void) {
    continues = 1;
    event_loop_wake();
}

void event_loop_subscribe(const LoopListener *listener) {
    listeners[count++] = listener;
}

static void on_event(RedisModuleCtx *ctx, RedisModuleEvent event, uint64_t subevent, void *data) {
    (void)event;
    (void)data;
    if (subevent != REDISMODULE_SUBEVENT_EVENTLOOP_BEFORE_SLEEP) {
        for (int i = 0; i < count; i++) {
            if (listeners[i]->begin) listeners[i]->begin();
        }
        return;
    }
    continues = 0;
    for (int i = 0; i < count; i++) {
        listeners[i]->end(ctx, !continues || (iterations + 1) % MAX_ITERATIONS == 0);
    }
    iterations = continues ? iterations + 1 : 0;
}

int event_loop_init(RedisModuleCtx *ctx) {
    return RedisModule_SubscribeToServerEvent(ctx, (RedisModuleEvent){REDISMODULE_EVENT_EVENTLOOP, 1}, on_event);
}
