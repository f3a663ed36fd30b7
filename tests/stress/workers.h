/* workers.h - what takes the place of Python: a loader and workers that run models and scripts of a simple kind.
 *
 * A model's blob and a script's source is a line of numbers, ENGINE_BLOB: what is added, how long it takes (us), how
 * many of 1000 runs fail. Output number k of a run is the sum of its inputs, element by element, plus the number, plus
 * k; all tensors are INT64 [rows, columns]. An error is ENGINE_ERROR. */
#ifndef STRESS_WORKERS_H
#define STRESS_WORKERS_H

#include <stdint.h>

#define ENGINE_BLOB "%d %d %d"
#define ENGINE_ERROR "ERR it failed"

typedef struct EngineCounts {
    int64_t ops;
    int64_t failed;
    int64_t batches; /* of two ops or more */
    int64_t batched; /* ops in them */
    int64_t swept;
    int64_t loads;
} EngineCounts;

/* Before the module is loaded, which starts the engine. */
void engine_seed(uint64_t seed);
EngineCounts engine_counts(void); /* zeros where engine processes run the ops */

/* What an engine process does (ISOLATION process). Never returns. */
void engine_process(void);

#endif
