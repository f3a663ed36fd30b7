/* backend.h - the backends: one row each, which all of C and Python read. Any thread. */
#pragma once

#include "bridge.h"
#include "redis/api.h"

typedef struct BackendRow {
    Backend python;            /* the part that Python reads: name, folder, package */
    const char *version_field; /* in INFO MODULES */
    int takes_names;           /* clients name a model's inputs and outputs; others declare them themselves */
    int modelset_batches;      /* AI.MODELSET takes BATCHSIZE */
} BackendRow;

/* By number, as RDB files save it; NULL: no such backend. */
const BackendRow *backend_row(int64_t number);

/* The number of a backend, or -1. */
int backend_from_name(const RedisModuleString *name);

/* In upper case. */
const char *backend_name(int number);

/* The version of the library; NULL: it is not loaded. Never freed. */
const char *backend_version(int number);
const char *backend_advice(int number); /* what would make it faster; NULL: nothing. Never freed */

/* What bridge_onnx_figures tells. So INFO never waits for Python. */
typedef struct OnnxFigures {
    int64_t memory, accesses, direct_runs; /* atomic; accesses are Python's runs */
} OnnxFigures;

/* C has run an ONNX model. */
void backend_count_onnx_run(void);

/* From now on they are written there: in an engine process, to memory that the server reads. */
void backend_set_figures_place(OnnxFigures *place);

/* Adds these figures to the sum; NULL: those of this process. */
void backend_add_figures(OnnxFigures *sum, const OnnxFigures *figures);
