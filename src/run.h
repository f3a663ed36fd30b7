/* run.h - one execution of a model or script: from the command to the reply. The struct is in bridge.h.
 *
 * A run has two holders: its client (the main thread, until the blocked client is freed) and whoever works on it
 * (queue, loader, worker). Whoever moves `state` away from RUN_WAITING, by one compare-and-swap, unblocks the client;
 * so exactly one of worker, timer and disconnect does. */
#ifndef RUN_H
#define RUN_H

#include "bridge.h"
#include "redis_api.h"

/* A run of a model or script, whose reference it takes over, with room for its tensors. */
Run *run_new(Runnable *runnable, int ninputs, int noutputs);
void run_unref(Run *run);
int run_is_waiting(const Run *run);

/* Blocks the client and sends the run on its way; the client's holder's reference is taken over. timeout in ms, 0:
 * none. reply is called on the main thread with the run as private data. */
int run_submit(RedisModuleCtx *ctx, Run *run, long long timeout, RedisModuleCmdFunc reply);

/* The loader is done with what is run by a run that came before it was ready. */
void run_forward(Run *run, const char *error);

#endif
