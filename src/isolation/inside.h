/* inside.h - what runs in an engine process: the ops that come through shared memory, and the messages. */
#pragma once

#include "isolation/shared.h"
#include "run/queue.h"

/* ---- inside_api.c: the part of Redis's API that queues, runs and values need there ------------------------------- */

/* Binds it. Memory that TryAlloc and CreateString give lies in the process's stretch, so outputs are made where the
 * server reads them. log gets a level and a line; unblocked gets the waiter of a run that has ended. */
void inside_bind_api(Shared *shared, void (*log)(const char *level, const char *text), void (*unblocked)(void *waiter));

/* Memory in the process's stretch, with its offset; Free() takes it back. NULL: none left. */
void *inside_alloc(uint64_t size);
uint64_t inside_offset(const void *memory);

/* Nothing runs: gives memory back to the kernel. */
void inside_rest(void);

/* The stretch gives out no more than this. Before it has given out any. */
void inside_limit_stretch(uint64_t size);

/* ---- inside_ops.c: ops, from submissions to completions ---------------------------------------------------------- */

extern const Source inside_source;
void inside_ops_init(Shared *shared, int event);

/* The end of a run: gives its result to the server. */
void inside_finish(void *waiter);

/* The slot of an op, for messages. */
uint64_t inside_slot(const Op *op);

/* ---- inside_jobs.c: models and scripts --------------------------------------------------------------------------- */

/* Definitions that the server has sent, by id. A reference, or NULL. */
Runnable *inside_runnable(uint64_t id);
