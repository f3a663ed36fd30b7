/* run.h - the life of a run and its ops, from the command to the reply. run/state.h has the structs.
 *
 * run.c is the client's side, op.c the workers' side. Each ends what the other begins, so they share this header. */
#pragma once

#include "run/state.h"

/* ---- the client's side: run.c. Main thread, except run_unref ----------------------------------------------------- */

/* A run with capacity for this many ops, slots, inputs of all ops together, and saves. One reference, the caller's. The
 * caller fills slots with references to tensors before it adds the ops that use them. */
Run *run_new(int nops, int nslots, int ninputs, int nsaves);
void run_ref(Run *run);
void run_unref(Run *run); /* any thread */

/* Adds the next op and takes the runnable's reference over. Inputs are numbers of slots (NULL: 0, 1, 2 ...). An input
 * slot that holds no tensor is an output of an op added before. Outputs are the slots from first_output on. */
Op *run_add_op(Run *run, Runnable *runnable, const int *inputs, int ninputs, int first_output, int noutputs);

/* Answers an op that was just added from what its model has kept, if that may be; it is done then. Else, its outputs
 * are kept in the end, if they may be. Main thread. */
void run_use_cache(Run *run, Op *op);

/* In the end the tensor of this slot shall be the value of this key, or in this form of this field (NULL: none). */
void run_add_save(Run *run, RedisModuleString *key, RedisModuleString *field, int form, int slot);

/* How a run ends, on the main thread: save, unless it failed or has nothing to save; then reply. Both get the run. */
typedef struct RunEnd {
    void (*save)(RedisModuleCtx *ctx, Waiter *run);
    RedisModuleCmdFunc reply;
} RunEnd;

/* Blocks the client and queues the ops that wait for no other, or replies BUSY where a limit refuses them. Takes the
 * caller's reference over. timeout in ms, 0: none. */
int run_submit(RedisModuleCtx *ctx, Run *run, long long timeout, const RunEnd *end);

/* The same without a client. ended: called when the run is over, failed or not, where the server accepts writes. */
void run_submit_alone(Run *run, int db, void (*ended)(RedisModuleCtx *ctx, Waiter *run));

/* Ends the client's wait for this reason (RUN_...), unless another reason came first; returns whether it does. Any
 * thread. */
int run_end_wait(Run *run, RunState reason);

/* Runs that were looked up in a cache, and found (1) or not (0). Main thread. */
int64_t run_lookups(int are_hits);

/* Models and scripts whose client has not waited for their end, for this reason. Main thread. */
int64_t run_given_up(RunState reason);

/* The run of a client that waits for one; NULL: it waits for the loader. */
Run *run_of(Waiter *waiter);

/* Ends the client's wait with an error. What nobody has begun does not begin any more. */
void run_kill(Run *run);

/* ---- the workers' side: op.c ------------------------------------------------------------------------------------- */

/* Sets batch_key and rows of an op whose inputs are complete (batch.c). */
void batch_describe(Op *op);

/* The inputs are complete: the op is active from now on, and holds its run. It must be pushed or given to a worker. */
void op_queue(Op *op, int64_t now);

/* Pushes it to the queue of its device; through the loader where its model or script is not compiled yet. The main
 * thread submits, others push (run/queue.h). */
void op_push(Op *op);
void op_submit(Op *op);

/* Has the loader compile its model or script first. */
void op_wait_for_loader(Op *op);

/* "waiting" for other ops of its run, "loading" its model or script, "queued" or "running"; NULL: it has ended. */
const char *op_state_name(const Op *op);

/* Releases an op that will not run. */
void op_drop(Op *op);

/* An engine process has ended the op, which it began at this time (ns). Then outputs or an error are to be set, and the
 * op is to be given to bridge_finish_ops. 0: it was skipped meanwhile, and is dropped. */
int op_take_back(Op *op, int64_t begun);

/* An op of the run is neither queued nor running any more. After the last one the client is answered. */
void op_leave(Run *run);
