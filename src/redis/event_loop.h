/* event_loop.h - what others do once in each iteration of Redis's event loop. Main thread only. */
#ifndef REDIS_EVENT_LOOP_H
#define REDIS_EVENT_LOOP_H

#include "redis/api.h"

typedef struct LoopListener {
    void (*begin)(void); /* the loop has slept, commands come next; NULL: not needed */
    /* The loop is about to sleep, or to run the reply callbacks of unblocked clients. is_last: no other iteration
     * follows at once. */
    void (*end)(RedisModuleCtx *ctx, int is_last);
} LoopListener;

/* At load; REDISMODULE_ERR where the server cannot tell. */
int event_loop_init(RedisModuleCtx *ctx);

/* At load. Listeners are called in the order in which they subscribe; the struct must stay. */
void event_loop_subscribe(const LoopListener *listener);

/* Wakes the loop if it sleeps. Any thread. */
void event_loop_wake(void);

/* Called by a listener's end: the loop does not sleep, another iteration follows at once. */
void event_loop_continue(void);

#endif
