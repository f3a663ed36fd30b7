/* run.h - whatever one command executes: from the command to the reply. The structs are in bridge.h.
 *
 * A run is held by its client (the main thread, until the blocked client is freed) and by each op that is on its way
 * (queue, loader, worker). Whoever moves `state` away from RUN_WAITING, by one compare-and-swap, unblocks the client;
 * so exactly one of the last op to end, the timer and the disconnection does. */
#ifndef RUN_H
#define RUN_H

#include "bridge.h"
#include "redis_api.h"

/* A tensor that goes to the keyspace in the end: index of the key in the command's argv, and where the tensor is. */
typedef struct Store {
    int32_t key;
    int32_t slot;
} Store;

/* A run with room for so many ops, slots, inputs of all ops together, and stores. One reference, the caller's. */
Run *run_new(int nops, int nslots, int ninputs, int nstores);
void run_ref(Run *run);
void run_unref(Run *run);

/* Takes the tensor's reference over. Before any op that uses the slot is added. */
void run_set_slot(Run *run, int slot, Tensor *tensor);

/* Adds the next op, whose runnable's reference is taken over. Inputs are the numbers of slots (NULL: 0, 1, 2 ...); one
 * that holds no tensor is an output of an op added before. Outputs are the slots from first_output on. */
Op *run_add_op(Run *run, Runnable *runnable, const int *inputs, int ninputs, int first_output, int noutputs);

/* Blocks the client and sends the ops that wait for no other on their way; the caller's reference is taken over.
 * timeout in ms, 0: none. reply is called on the main thread with the run as private data. */
int run_submit(RedisModuleCtx *ctx, Run *run, long long timeout, RedisModuleCmdFunc reply);

int run_is_waiting(const Run *run);
int run_has_failed(const Run *run);

/* An op failed: those that nobody has begun yet are skipped. The caller's own op still counts as active. */
void run_fail(Run *run);

/* An op is neither queued nor running any more; after the last one the client is answered. */
void run_leave(Run *run);

#endif
