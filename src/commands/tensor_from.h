/* tensor_from.h - AI.TENSORSET ... FROM: tensors of what hashes, strings, lists and streams hold. Main thread only. */
#pragma once

#include "values/tensor.h"

#define TENSOR_ANY (-1) /* the dimension `*`, of which a shape may have one */

/* Parses the words behind FROM, reads the keys and makes the tensor; -1 after replying an error. */
int tensor_from_keys(RedisModuleCtx *ctx, int dtype, int ndim, int64_t *shape, RedisModuleString **argv, int argc,
                     Tensor **tensor);

/* How many of the words behind FROM are keys, and which is the first. */
int tensor_from_find(RedisModuleString **argv, int argc, int *first);
