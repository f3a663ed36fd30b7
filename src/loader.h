/* loader.h - the queue of jobs for the loader, the one thread that imports backends and compiles models and scripts.
 *
 * The main thread and workers post jobs; the loader (redisai/loader.py) takes them in order, urgent ones first. The
 * loader never takes the Redis lock, so the main thread may wait for a job where Redis forbids blocking the client. */
#ifndef LOADER_H
#define LOADER_H

#include "bridge.h"
#include "redis_api.h"

Job *job_new(int kind);  /* JOB_... */
void job_free(Job *job); /* and what it holds: the runnable's reference, path, error */

/* Hands the job over: it frees itself when it is finished. */
void loader_post(Job *job);

/* Posts the job and waits until it is finished; the caller reads job->error and frees it. After so many seconds (0:
 * never) it gives up and returns -1: then the job, which goes on, is not the caller's any more. The main thread must
 * give up, or one model that takes for ever to compile would stop the server. Workers may wait too, holding no lock. */
int loader_post_and_wait(Job *job, int seconds);
#define LOADER_PATIENCE 5 /* s, of the main thread: as long as Redis waits for a script (busy-reply-threshold) */

/* Blocks the client, posts the job, and calls reply on the main thread when it is finished, with the job as private
 * data; replies an error when the client cannot be blocked. */
int loader_post_blocking(RedisModuleCtx *ctx, Job *job, RedisModuleCmdFunc reply);

#endif
