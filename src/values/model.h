/* model.h - the model value: its definition and blob. bridge.h has the struct, runnable.h what scripts share. */
#pragma once

#include "values/runnable.h"

Model *model_new(int backend); /* one reference, the caller's; fields are filled in before it is shared */

/* A MINBATCHTIMEOUT that has us is below so many ms: a double still tells them apart. */
#define MODEL_MAX_EXACT_MS 1000000000000LL

#define WRONG_PRIORITY "Invalid argument for PRIORITY: low, normal or high is needed"

/* PRIORITY_LOW .. PRIORITY_HIGH as commands call it. 0: no such word; NULL: no such number. */
int priority_named(const RedisModuleString *word);
const char *priority_name(int64_t priority);

/* While others read them, too. Main thread. */
void model_set_limits(Model *model, const ModelLimits *limits);

/* Adds a piece to the blob. hold: keeps the command's own argument and copies nothing. take: takes memory over. */
void model_hold_piece(Model *model, RedisModuleString *arg);
void model_take_piece(Model *model, char *data, uint64_t size);

/* What is wrong with an item of warmups, as a text; NULL: nothing. */
const char *model_warmup_error(const char *warmup);

/* What the model itself declares if that is known, else what it was stored with. */
const Names *model_inputs(const Model *model);
const Names *model_outputs(const Model *model);

/* How many inputs or outputs a run may have. Where that is not known (yet), any number. */
typedef struct Range {
    int64_t least;
    int64_t most;
} Range;
Range model_input_range(const Model *model);
Range model_output_range(const Model *model);

#define MODEL_CHUNK_SIZE (511LL * 1024 * 1024) /* bytes, until the option of this name is set */
void model_set_chunk_size(int64_t size);

/* The chunks in which MODELGET, RDB and AOF give a blob out. */
int64_t model_chunk_count(const Model *model);
/* One chunk. *scratch is set to NULL, or to memory that the caller frees with RedisModule_Free after use. */
const char *model_chunk(const Model *model, int64_t index, uint64_t *size, char **scratch);
/* Any part of the blob, in the same way. */
const char *model_bytes(const Model *model, uint64_t from, uint64_t size, char **scratch);

extern RedisModuleType *ModelType;
int model_type_register(RedisModuleCtx *ctx);
