/* unblock.h - clients that are blocked until they may be answered: when writing is allowed, when a job is finished. */
#pragma once

#include "engine/jobs.h"
#include "redis/api.h"

/* Unblocks a client whose reply callback writes, once writing is allowed (redis/event_loop.h). Any thread. */
void unblock_to_write(RedisModuleBlockedClient *blocked, void *privdata);

/* Blocks the client, posts the job, and calls reply on the main thread when the job is finished, with the job as
 * private data. Replies an error when the client cannot be blocked. Main thread. */
int block_on_job(RedisModuleCtx *ctx, LoaderJob *job, RedisModuleCmdFunc reply);
