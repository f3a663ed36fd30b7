/* slices.h - a command whose work takes longer than the event loop may wait. Main thread only. */
#pragma once

#include "redis/api.h"

/* Part of what the command's work is about, which its owner allocates. */
typedef struct Slices {
    RedisModuleBlockedClient *blocked; /* NULL: the client cannot be blocked, so all is done at once */
    RedisModuleCtx *ctx;               /* of the client, with its database */
    int (*step)(struct Slices *work);  /* does some microseconds of it; 0: there is no more */
    void (*reply)(RedisModuleCtx *ctx, struct Slices *work);
    void (*freed)(struct Slices *work); /* the last call */
} Slices;

/* Does the work in slices of a millisecond, with the event loop running between them; then replies. For handlers:
 * returns what they must return. */
int do_in_slices(RedisModuleCtx *ctx, Slices *work);
