/* limits.h - how many runs wait, of each model and on the server, and the limits of that.
 *
 * Each op of a run counts, also while it waits for others: from the command that brings it until a worker begins it or
 * drops it. What a client has given up counts until then, too, because it still takes memory. An engine process does
 * not tell when it begins an op, so there it counts until its result comes. */
#pragma once

#include "run/state.h"

/* Main thread: counts the ops of a new run, all or none. -1 after replying that one is too many. */
int limits_admit(RedisModuleCtx *ctx, Run *run);

/* For whoever has these ops: they do not wait any more, if they did. Any thread. */
void limits_leave(Op *const *ops, int n);

/* What waits now. Main thread. */
int64_t limits_waiting(const Runnable *runnable);

typedef struct ServerFigures {
    int64_t runs, bytes; /* that wait now */
    int64_t refused;     /* commands, since the start */
} ServerFigures;
ServerFigures limits_figures(void);
