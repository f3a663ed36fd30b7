/* direct.h - what the files of this folder share. Each library has one run function, named in the switch of direct.c.
 */
#pragma once

#include "bridge.h"
#include "redis/clock.h"
#include "run/state.h"

/* Runs one op that fits, and sets its outputs. Returns NULL, or the library's error, allocated by RedisModule_Strdup.
 */
typedef char *DirectRun(const Direct *direct, Op *op);

DirectRun onnx_run;  /* onnxruntime.c */
DirectRun tf_run;    /* tensorflow.c */
DirectRun torch_run; /* torch.c */

/* How C runs the op, and by which function; NULL: Python must (direct.c). */
Direct *direct_of(const Op *op);
DirectRun *direct_run_of(const Direct *direct);

/* Around the call of the library: what was before is converting the inputs, what comes after is copying the outputs.
 * Batches are told apart always, single runs if the latest took a while. */
static inline void direct_call_begins(const Direct *direct, Op *op) {
    int is_long = op->state->members || __atomic_load_n(&direct->duration, __ATOMIC_RELAXED) > SPLIT_NS;
    op->input_ns = is_long ? monotonic_ns() : 0;
}
static inline void direct_call_ends(Op *op) { op->output_ns = op->input_ns ? monotonic_ns() : 0; }

extern const TorchHost script_host; /* script_models.c */

/* A thread calls both, around a run (watch.c). If that takes longer than MODEL_EXECUTION_TIMEOUT, terminate(options) is
 * called on another thread, and watch_end() returns 1. */
void watch_begin(const Op *op, void *options, void *(*terminate)(void *options));
int watch_end(void);

/* Whether a thread is between these two with the op, alone or in a batch. is_to_end: then its run ends, too. */
int watch_find(const Op *op, int is_to_end);
