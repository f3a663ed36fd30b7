/* unblock.h - answering clients whose commands write, when writing is allowed. */
#ifndef UNBLOCK_H
#define UNBLOCK_H

#include "redis_api.h"

/* Unblocks a client whose reply callback stores and replicates something. Any thread. While writes are paused (CLIENT
 * PAUSE, a failover, a shutdown that waits for replicas) it stays blocked: Redis aborts when something is replicated
 * then. */
void unblock_to_write(RedisModuleBlockedClient *blocked, void *privdata);

/* At load; REDISMODULE_ERR where the server cannot do it. */
int unblock_init(RedisModuleCtx *ctx);

#endif
