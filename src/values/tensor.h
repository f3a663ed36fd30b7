/* tensor.h - the tensor value: its memory. bridge.h has the struct.
 *
 * A tensor is immutable once built and shared by counting references, so any thread may read one it holds a reference
 * to, and release it. */
#pragma once

#include "bridge.h"
#include "redis/api.h"
#include "values/dtype.h"

#define TENSOR_MAX_DIMS 64 /* what NumPy and the libraries behind it can take */

/* The error where there is none. */
#define NO_TENSOR "tensor key is empty or in a different shard"

/* The number of elements and the bytes they take (STRING: at least). Returns -1 where that overflows. */
int tensor_measure(int dtype, int ndim, const int64_t *shape, int64_t *length, uint64_t *size);

/* What a tensor of so many elements and bytes of data takes: STRING needs an offset for each element. */
uint64_t tensor_memory(int dtype, int64_t length, uint64_t size);

/* bridge_max_tensor_bytes(), asked of the server again where size is beyond the latest answer. Main thread. */
uint64_t tensor_max_bytes(RedisModuleCtx *ctx, uint64_t size);

/* A tensor with memory for size bytes of data, not yet filled in; one reference, the caller's. NULL: no memory. With
 * zeroed set, the data is zeros and STRING offsets are those of empty strings. */
Tensor *tensor_new(int dtype, int ndim, const int64_t *shape, int64_t length, uint64_t size, int zeroed);

/* A tensor with a copy of data. offsets: where each element of a STRING starts; NULL: data is C strings. Returns NULL
 * with *error set (a constant text) where data, offsets and shape do not agree. */
Tensor *tensor_from_data(int dtype, int ndim, const int64_t *shape, const void *data, uint64_t size,
                         const uint64_t *offsets, const char **error);

/* A tensor whose data (aligned to 64 bytes, right for this type and shape) and offsets stay where they are, longer than
 * the tensor. */
Tensor *tensor_view(int dtype, int ndim, const int64_t *shape, const char *data, uint64_t size, uint64_t *offsets);

/* Data of this many bytes stays in a Redis string. Copying it into fresh memory, 8 ms for 16 MB, would make every
 * client wait, at TENSORSET and when an output is replicated; workers copy it to where libraries want it instead. */
#define TENSOR_LARGE (512 * 1024)

/* A tensor whose data stays in owner, a reference that is taken over, also on error. The string's count of references
 * is not atomic: whoever shares the string must be done with it before another thread can see the tensor. */
Tensor *tensor_from_string(int dtype, int ndim, const int64_t *shape, RedisModuleString *owner, const uint64_t *offsets,
                           const char **error);

/* An element of a STRING tensor. */
Bytes tensor_element(const Tensor *tensor, int64_t index);

/* Whether an element of a STRING tensor has a NUL inside: then data alone does not tell where the elements end. */
int tensor_has_inner_nuls(const Tensor *tensor);

/* Bytes of memory that it takes. */
size_t tensor_allocated(const Tensor *tensor);

Tensor *tensor_ref(Tensor *tensor);
void tensor_unref(Tensor *tensor);

/* Moves the tensor's memory to where it leaves fewer gaps, and returns the tensor. For the main thread, which holds a
 * reference. Where that is not the only one, nothing moves: others read the tensor without a lock. */
Tensor *tensor_defrag(RedisModuleDefragCtx *ctx, Tensor *tensor);

/* The datatype (values/tensor_type.c). */
extern RedisModuleType *TensorType;
int tensor_type_register(RedisModuleCtx *ctx);

/* The words of AI.TENSORSET behind the key: with RAW where an element has a NUL inside, else with BLOB. Main thread,
 * and the BGSAVE child. */
RedisModuleString **tensor_words(const Tensor *tensor, size_t *count);
void tensor_free_words(RedisModuleString **words, size_t count);
