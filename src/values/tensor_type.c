/* tensor_type.c - AI_TENSOR, the datatype: saving, loading, memory, copies.
 *
 * Callbacks run on the main thread, save and rewrite in the BGSAVE child, free also on Redis's lazy-free thread. */
#include <string.h>

#include "values/rdb.h"
#include "values/tensor.h"

RedisModuleType *TensorType;

static void *corrupt(RedisModuleIO *io, const char *reason) { return rdb_corrupt(io, "tensor", reason); }

/* A u per element. The array grows as they arrive: a broken shape allocates nothing. */
static uint64_t *load_offsets(RedisModuleIO *io, int64_t length) {
    int64_t room = 16;
    uint64_t *offsets = RedisModule_Alloc(room * sizeof(*offsets));
    for (int64_t i = 0; i < length && !RedisModule_IsIOError(io); i++) {
        if (i == room) offsets = RedisModule_Realloc(offsets, (room *= 2) * sizeof(*offsets));
        offsets[i] = RedisModule_LoadUnsigned(io);
    }
    return offsets;
}

static void *load_data(RedisModuleIO *io, int dtype, int ndim, const int64_t *shape, uint64_t start) {
    size_t size;
    char *data = RedisModule_LoadStringBuffer(io, &size);
    if (data == NULL || RedisModule_IsIOError(io)) return corrupt(io, "no data");

    /* Layouts before 4 give a byte offset into the data, but some saved only the bytes after it. */
    int64_t length;
    uint64_t expected;
    if (start && tensor_measure(dtype, ndim, shape, &length, &expected) == 0 && size == expected) start = 0;

    /* Deployed servers did not check a BOOL blob's last byte: what they saved must load all the same. */
    for (size_t i = 0; dtype_is_bool(dtype) && i < size; i++) data[i] = data[i] != 0;

    uint64_t *offsets = NULL;
    if (dtype_is_string(dtype) && tensor_measure(dtype, ndim, shape, &length, &expected) == 0 && expected <= size) {
        offsets = load_offsets(io, length);
    }

    const char *error = "byte offset beyond the data";
    Tensor *tensor = NULL;
    if (start <= size && !RedisModule_IsIOError(io)) {
        tensor = tensor_from_data(dtype, ndim, shape, data + start, size - start, offsets, &error);
    }
    RedisModule_Free(offsets);
    RedisModule_Free(data);
    return tensor ? tensor : corrupt(io, error);
}

/* u code, u bits, s ndim, s dims, buffer data, for STRING a u per element. */
static void *load_version_4(RedisModuleIO *io) {
    uint64_t code = RedisModule_LoadUnsigned(io);
    uint64_t bits = RedisModule_LoadUnsigned(io);
    int64_t ndim = RedisModule_LoadSigned(io);
    int dtype = dtype_from_code(code, bits);
    if (RedisModule_IsIOError(io) || dtype == -1) return corrupt(io, "unknown element type");
    if (ndim < 0 || ndim > TENSOR_MAX_DIMS) return corrupt(io, "impossible number of dimensions");

    int64_t shape[TENSOR_MAX_DIMS];
    for (int i = 0; i < ndim; i++) shape[i] = RedisModule_LoadSigned(io);
    if (RedisModule_IsIOError(io)) return corrupt(io, "no shape");

    return load_data(io, dtype, (int)ndim, shape, 0);
}

/* u device type, u device id, u bits, u code, u lanes, u ndim, u dims, u strides (in elements), u byte offset, buffer
 * data. */
static void *load_version_0(RedisModuleIO *io) {
    RedisModule_LoadUnsigned(io);
    RedisModule_LoadUnsigned(io);
    uint64_t bits = RedisModule_LoadUnsigned(io);
    uint64_t code = RedisModule_LoadUnsigned(io);
    uint64_t lanes = RedisModule_LoadUnsigned(io);
    uint64_t ndim = RedisModule_LoadUnsigned(io);
    int dtype = dtype_from_code(code, bits);
    if (RedisModule_IsIOError(io) || dtype == -1 || dtype_is_string(dtype) || lanes != 1) {
        return corrupt(io, "unknown element type");
    }
    if (ndim > TENSOR_MAX_DIMS) return corrupt(io, "impossible number of dimensions");

    int64_t shape[TENSOR_MAX_DIMS];
    uint64_t strides[TENSOR_MAX_DIMS];
    for (uint64_t i = 0; i < ndim; i++) shape[i] = (int64_t)RedisModule_LoadUnsigned(io);
    for (uint64_t i = 0; i < ndim; i++) strides[i] = RedisModule_LoadUnsigned(io);
    uint64_t start = RedisModule_LoadUnsigned(io);
    if (RedisModule_IsIOError(io)) return corrupt(io, "no shape");

    uint64_t stride = 1;
    for (int i = (int)ndim - 1; i >= 0; i--) {
        if (shape[i] > 1 && strides[i] != stride) return corrupt(io, "data not in C order");
        if (shape[i] < 0 || __builtin_mul_overflow(stride, (uint64_t)shape[i], &stride)) {
            return corrupt(io, "tensor shape overflows");
        }
    }
    return load_data(io, dtype, (int)ndim, shape, start);
}

static void *tensor_rdb_load(RedisModuleIO *io, int encver) {
    if (encver > RDB_ENCODING_VERSION) return corrupt(io, "saved by a newer version");
    return encver == 4 ? load_version_4(io) : load_version_0(io);
}

static void tensor_rdb_save(RedisModuleIO *io, void *value) {
    Tensor *tensor = value;
    const Dtype *dtype = bridge_dtype(tensor->dtype);
    RedisModule_SaveUnsigned(io, dtype->code);
    RedisModule_SaveUnsigned(io, dtype->bits);
    RedisModule_SaveSigned(io, tensor->ndim);
    for (int i = 0; i < tensor->ndim; i++) RedisModule_SaveSigned(io, tensor->shape[i]);
    RedisModule_SaveStringBuffer(io, tensor->data, tensor->size);
    if (tensor->offsets == NULL) return;
    for (int64_t i = 0; i < tensor->length; i++) RedisModule_SaveUnsigned(io, tensor->offsets[i]);
}

/* Words that every replicated tensor has, made at load. */
static RedisModuleString **type_words, *blob_word, *raw_word; /* type_words: by dtype */

static void make_words(void) {
    for (int i = 0; bridge_dtype(i); i++) {
        const char *name = bridge_dtype(i)->name;
        type_words = RedisModule_Realloc(type_words, (i + 1) * sizeof(*type_words));
        type_words[i] = RedisModule_CreateString(NULL, name, strlen(name));
    }
    blob_word = RedisModule_CreateString(NULL, "BLOB", 4);
    raw_word = RedisModule_CreateString(NULL, "RAW", 3);
}

RedisModuleString **tensor_words(const Tensor *tensor, size_t *count) {
    int is_raw = tensor_has_inner_nuls(tensor);
    *count = 2 + tensor->ndim + (is_raw ? tensor->length : 1);
    RedisModuleString **words = RedisModule_Alloc(*count * sizeof(*words)), **at = words;
    *at++ = RedisModule_HoldString(NULL, type_words[tensor->dtype]);
    for (int i = 0; i < tensor->ndim; i++) *at++ = RedisModule_CreateStringFromLongLong(NULL, tensor->shape[i]);
    *at++ = RedisModule_HoldString(NULL, is_raw ? raw_word : blob_word);
    for (int64_t i = 0; is_raw && i < tensor->length; i++) {
        Bytes element = tensor_element(tensor, i);
        *at++ = RedisModule_CreateString(NULL, element.data, element.size);
    }
    if (is_raw) return words;
    *at = tensor->owner ? RedisModule_HoldString(NULL, tensor->owner)
                        : RedisModule_CreateString(NULL, tensor->data, tensor->size);
    return words;
}

void tensor_free_words(RedisModuleString **words, size_t count) {
    for (size_t i = 0; i < count; i++) RedisModule_FreeString(NULL, words[i]);
    RedisModule_Free(words);
}

static void tensor_aof_rewrite(RedisModuleIO *io, RedisModuleString *key, void *value) {
    size_t count;
    RedisModuleString **words = tensor_words(value, &count);
    RedisModule_EmitAOF(io, "AI.TENSORSET", "sv", key, words, count);
    tensor_free_words(words, count);
}

static size_t tensor_mem_usage(const void *value) { return KEY_OVERHEAD + tensor_allocated(value); }

static void tensor_digest(RedisModuleDigest *digest, void *value) {
    Tensor *tensor = value;
    RedisModule_DigestAddLongLong(digest, tensor->dtype);
    for (int i = 0; i < tensor->ndim; i++) RedisModule_DigestAddLongLong(digest, tensor->shape[i]);
    RedisModule_DigestAddStringBuffer(digest, tensor->data, tensor->size);
    if (tensor_has_inner_nuls(tensor)) {
        for (int64_t i = 0; i < tensor->length; i++) RedisModule_DigestAddLongLong(digest, tensor->offsets[i]);
    }
    RedisModule_DigestEndSequence(digest);
}

static void tensor_free(void *value) { tensor_unref(value); }

/* Giving pages back to the kernel is what takes time: a tensor of more than 1 MB goes to the lazy-free thread
 * (Redis's threshold is an effort of 64). */
static size_t tensor_free_effort(RedisModuleString *key, const void *value) {
    return 1 + ((const Tensor *)value)->size / 16384;
}

/* Immutable, so a copy is one more reference. */
static void *tensor_copy(RedisModuleString *from, RedisModuleString *to, const void *value) {
    return tensor_ref((Tensor *)value);
}

static int tensor_defrag_value(RedisModuleDefragCtx *ctx, RedisModuleString *key, void **value) {
    *value = tensor_defrag(ctx, *value);
    return 0;
}

int tensor_type_register(RedisModuleCtx *ctx) {
    RedisModuleTypeMethods methods = {
        .version = REDISMODULE_TYPE_METHOD_VERSION,
        .rdb_load = tensor_rdb_load,
        .rdb_save = tensor_rdb_save,
        .aof_rewrite = tensor_aof_rewrite,
        .mem_usage = tensor_mem_usage,
        .digest = tensor_digest,
        .free = tensor_free,
        .free_effort = tensor_free_effort,
        .copy = tensor_copy,
        .defrag = tensor_defrag_value,
    };
    make_words();
    TensorType = RedisModule_CreateDataType(ctx, "AI_TENSOR", RDB_ENCODING_VERSION, &methods);
    return TensorType ? REDISMODULE_OK : REDISMODULE_ERR;
}
