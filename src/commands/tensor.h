/* tensor.h - what AI.TENSORSET and AI.TENSORGET share with DAGs and runs. Main thread only. */
#pragma once

#include "values/tensor.h"

/* Parses `type dimension ... [BLOB blob | VALUES value ... | RAW element ... | FROM source]` and makes the tensor; -1
 * after replying an error. */
int tensor_parse(RedisModuleCtx *ctx, RedisModuleString **argv, int argc, Tensor **tensor);

/* Tells Redis which words of AI.TENSORSET in a DAG, at `offset` in the client's, are keys that FROM reads. */
void tensor_report_keys(RedisModuleCtx *ctx, RedisModuleString **argv, int argc, int offset);

typedef struct TensorFormat {
    int meta, blob, values;
    int raw; /* values of a STRING, else blob */
} TensorFormat;

/* Parses `[META] [BLOB | VALUES | RAW]`; -1 after replying an error. */
int tensor_parse_format(RedisModuleCtx *ctx, RedisModuleString **argv, int argc, TensorFormat *format);
void tensor_reply(RedisModuleCtx *ctx, const Tensor *tensor, TensorFormat format);

#define TENSOR_EVENT "ai.tensorset" /* also of the outputs of runs: replicas and the AOF get those as AI.TENSORSET */

/* Replicates a tensor that has become a key's value, as AI.TENSORSET. */
void tensor_replicate(RedisModuleCtx *ctx, RedisModuleString *key, const Tensor *tensor);
