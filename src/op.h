/* op.h - one execution of a model or function, from when its inputs are there to when it is done. The struct is in
 * bridge.h.
 *
 * An op is in one place at a time: with the loader, in a queue, or with a worker. `state` is moved by compare-and-swap,
 * so an op that a failure or a time-out overtakes is either begun or skipped, and whoever has it drops it. */
#ifndef OP_H
#define OP_H

#include <stdint.h>

#include "bridge.h"

int64_t monotonic_ns(void);

/* All inputs are there: the op is active from now on, and holds its run. It must be pushed, or handed to a worker. */
void op_queue(Op *op, int64_t now);

/* To the queue of its device; through the loader where its model or script is not compiled yet. */
void op_push(Op *op);
void op_submit(Op *op); /* from the main thread (queue_submit) */

int op_state(const Op *op); /* OP_... */

/* Whether somebody should still begin it. */
int op_is_wanted(const Op *op);

/* Nobody shall begin it, if nobody has. */
void op_skip(Op *op);

/* The loader is done with the model or script of an op that came before it was ready. */
void op_forward(Op *op, const char *error);

#endif
