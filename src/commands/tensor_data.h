/* tensor_data.h - tensors of elements that are texts, and how large they may be. Main thread only. */
#pragma once

#include "values/tensor.h"

#define TENSOR_TOO_LARGE "tensor size exceeds the limit of %llu bytes (proto-max-bulk-len)"
#define NO_MEMORY "not enough memory for a tensor of %llu bytes"

/* Makes the tensor of the words behind VALUES, or RAW; -1 after replying an error. */
int tensor_from_words(RedisModuleCtx *ctx, int dtype, int ndim, const int64_t *shape, int64_t length, uint64_t size,
                      int is_raw, RedisModuleString **values, int count, Tensor **tensor);

/* -1 after replying that a tensor of so many elements and bytes is larger than a client may make. */
int tensor_check_memory(RedisModuleCtx *ctx, int dtype, int64_t length, uint64_t size);
