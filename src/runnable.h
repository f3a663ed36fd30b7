/* runnable.h - what models and scripts have in common: references and the loader's part. The struct is in
 * bridge.h, for Python reads it too.
 *
 * The definition is immutable from the moment a second thread can see it. What the loader finds out is written once,
 * before `ready` is set; whoever reads it loads `ready` first. Counting references is safe on any thread; the last one
 * hands the value to the loader, which forgets the compiled session and frees the memory, so that dropping a model of
 * any size costs the main thread nothing. */
#ifndef RUNNABLE_H
#define RUNNABLE_H

#include "bridge.h"
#include "redis_api.h"

/* Gives a new, zeroed value its id and one reference, the caller's. */
void runnable_init(Runnable *runnable, int kind, int backend);
Runnable *runnable_ref(Runnable *runnable);
void runnable_unref(Runnable *runnable);
void runnable_destroy(Runnable *runnable); /* only the loader, when it has dropped the session */

/* Whether the loader has compiled it. Acquires: after 1, what the loader declared may be read. */
int runnable_is_ready(const Runnable *runnable);

#endif
