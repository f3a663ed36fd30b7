/* commands/tensor.c - AI.TENSORSET and AI.TENSORGET. Main thread only. */
#include "commands/tensor.h"

#include <string.h>

#include "commands/commands.h"
#include "redis/command.h"
#include "values/tensor.h"

static int fill_numbers(Tensor *tensor, RedisModuleString **values) {
    const DtypeRow *row = dtype_row(tensor->dtype);
    uint64_t size = dtype_size(tensor->dtype);
    char *element = tensor->data;
    for (int64_t i = 0; i < tensor->length; i++, element += size) {
        if (row->parse(row, values[i], element) == -1) return -1;
    }
    return 0;
}

static void fill_strings(Tensor *tensor, RedisModuleString **values) {
    uint64_t at = 0;
    for (int64_t i = 0; i < tensor->length; i++) {
        size_t len;
        const char *text = RedisModule_StringPtrLen(values[i], &len);
        tensor->offsets[i] = at;
        memcpy(tensor->data + at, text, len);
        tensor->data[at + len] = '\0';
        at += len + 1;
    }
}

static Tensor *tensor_from_values(RedisModuleCtx *ctx, int dtype, int ndim, const int64_t *shape, int64_t length,
                                  uint64_t size, RedisModuleString **values, int count) {
    if (length != count) {
        reply_error(ctx, "wrong number of values was given in 'AI.TENSORSET' command");
        return NULL;
    }
    if (dtype_is_string(dtype)) {
        size = 0;
        for (int i = 0; i < count; i++) {
            size_t len;
            const char *text = RedisModule_StringPtrLen(values[i], &len);
            if (memchr(text, '\0', len)) {
                reply_error(ctx, "C-string value contains null character");
                return NULL;
            }
            size += len + 1;
        }
    }
    Tensor *tensor = tensor_new(dtype, ndim, shape, length, size, 0);
    if (tensor == NULL) {
        reply_error(ctx, "not enough memory for a tensor of %llu bytes", (unsigned long long)size);
        return NULL;
    }
    if (tensor->offsets) {
        fill_strings(tensor, values);
    } else if (fill_numbers(tensor, values) == -1) {
        tensor_unref(tensor);
        reply_error(ctx, "invalid value");
        return NULL;
    }
    return tensor;
}

/* Deployed servers did not check a BOOL blob's last byte: what their AOFs and masters send is true or false all the
 * same. */
static Tensor *lenient_bools(int dtype, int ndim, const int64_t *shape, const char *data, size_t size,
                             const char **error) {
    char *bools = RedisModule_Alloc(size + 1);
    for (size_t i = 0; i < size; i++) bools[i] = data[i] != 0;
    Tensor *tensor = tensor_from_data(dtype, ndim, shape, bools, size, error);
    RedisModule_Free(bools);
    return tensor;
}

/* In MULTI and Lua the argument lives on behind this command, while another may hand the tensor to the lazy-free
 * thread: there it is copied. */
static Tensor *tensor_from_argument(RedisModuleCtx *ctx, int dtype, int ndim, const int64_t *shape,
                                    RedisModuleString *arg, const char **error) {
    size_t size;
    const char *data = RedisModule_StringPtrLen(arg, &size);
    int outlives = RedisModule_GetContextFlags(ctx) &
                   (REDISMODULE_CTX_FLAGS_MULTI | REDISMODULE_CTX_FLAGS_LUA | REDISMODULE_CTX_FLAGS_DENY_BLOCKING);
    if (dtype_is_bool(dtype) && wait_mode(ctx) == WAIT_NOT) {
        return lenient_bools(dtype, ndim, shape, data, size, error);
    }
    if (size < TENSOR_LARGE || outlives) return tensor_from_data(dtype, ndim, shape, data, size, error);
    RedisModule_TrimStringAllocation(arg);
    return tensor_from_string(dtype, ndim, shape, RedisModule_HoldString(NULL, arg), error);
}

Tensor *tensor_parse(RedisModuleCtx *ctx, RedisModuleString **argv, int argc) {
    size_t name_len;
    const char *name = RedisModule_StringPtrLen(argv[0], &name_len);
    int dtype = dtype_from_name(name, name_len);
    if (dtype == -1) {
        reply_error(ctx, "invalid data type");
        return NULL;
    }

    /* Clients cannot set an empty tensor, but models give them, and those come back from the AOF and the master. What
     * they send was accepted once, so no limit holds for it either. */
    int accepted = wait_mode(ctx) == WAIT_NOT;
    long long smallest = accepted ? 0 : 1;
    int64_t shape[TENSOR_MAX_DIMS];
    int ndim = 0, at = 1;
    for (; at < argc && !arg_is(argv[at], "BLOB") && !arg_is(argv[at], "VALUES"); at++) {
        long long dim;
        if (RedisModule_StringToLongLong(argv[at], &dim) == REDISMODULE_ERR || dim < smallest) {
            reply_error(ctx, "invalid or negative value found in tensor shape");
            return NULL;
        }
        if (ndim == TENSOR_MAX_DIMS) {
            reply_error(ctx, "tensor has more than %d dimensions", TENSOR_MAX_DIMS);
            return NULL;
        }
        shape[ndim++] = dim;
    }

    int64_t length;
    uint64_t size;
    int overflows = tensor_measure(dtype, ndim, shape, &length, &size) == -1;
    uint64_t memory = overflows ? 0 : tensor_memory(dtype, length, size);
    if (overflows || (!accepted && memory > tensor_max_bytes(ctx, memory))) {
        reply_error(ctx, "tensor size exceeds the limit of %llu bytes (proto-max-bulk-len)",
                    (unsigned long long)bridge_max_tensor_bytes());
        return NULL;
    }

    if (at == argc) {
        Tensor *tensor = tensor_new(dtype, ndim, shape, length, size, 1);
        if (tensor == NULL) reply_error(ctx, "not enough memory for a tensor of %llu bytes", (unsigned long long)size);
        return tensor;
    }
    if (arg_is(argv[at], "VALUES")) {
        return tensor_from_values(ctx, dtype, ndim, shape, length, size, argv + at + 1, argc - at - 1);
    }
    if (at + 2 != argc) {
        reply_error(ctx, "a single binary string should come after the BLOB argument in 'AI.TENSORSET' command");
        return NULL;
    }
    const char *error;
    Tensor *tensor = tensor_from_argument(ctx, dtype, ndim, shape, argv[at + 1], &error);
    if (tensor == NULL) reply_error(ctx, "%s", error);
    return tensor;
}

static int tensorset_command(RedisModuleCtx *ctx, RedisModuleString **argv, int argc) {
    if (argc < 4) return reply_wrong_arity(ctx, argv);
    if (!key_accepts(ctx, argv[1], TensorType)) {
        reply_wrong_type(ctx);
        return refuse_to_store(ctx, argv);
    }
    Tensor *tensor = tensor_parse(ctx, argv + 2, argc - 2);
    if (tensor == NULL) return refuse_to_store(ctx, argv);
    store_value(ctx, argv[1], TensorType, tensor);
    RedisModule_ReplicateVerbatim(ctx);
    return reply_ok(ctx);
}

/* Words that every replicated tensor has, made at load. */
static RedisModuleString **type_words, *blob_word; /* type_words: by dtype */

void tensor_replicate(RedisModuleCtx *ctx, RedisModuleString *key, const Tensor *tensor) {
    RedisModuleString *shape[TENSOR_MAX_DIMS];
    RedisModuleString *type = type_words[tensor->dtype];
    size_t ndim = tensor->ndim;
    for (size_t i = 0; i < ndim; i++) shape[i] = RedisModule_CreateStringFromLongLong(NULL, tensor->shape[i]);
    if (tensor->owner) {
        RedisModule_Replicate(ctx, "AI.TENSORSET", "ssvss", key, type, shape, ndim, blob_word, tensor->owner);
    } else {
        RedisModule_Replicate(ctx, "AI.TENSORSET", "ssvsb", key, type, shape, ndim, blob_word, tensor->data,
                              (size_t)tensor->size);
    }
    for (size_t i = 0; i < ndim; i++) RedisModule_FreeString(NULL, shape[i]);
}

/* ---- AI.TENSORGET ------------------------------------------------------------------------------------------------ */

int tensor_parse_format(RedisModuleCtx *ctx, RedisModuleString **argv, int argc, TensorFormat *format) {
    *format = (TensorFormat){0};
    for (int i = 0; i < argc; i++) {
        if (arg_is(argv[i], "META")) {
            format->meta = 1;
        } else if (arg_is(argv[i], "BLOB")) {
            format->blob = 1;
        } else if (arg_is(argv[i], "VALUES")) {
            format->values = 1;
        } else {
            return reply_error(ctx, "unsupported data format"), -1;
        }
        if (format->blob && format->values) return reply_error(ctx, "both BLOB and VALUES specified"), -1;
    }
    if (argc == 0) *format = (TensorFormat){.meta = 1, .blob = 1};
    return 0;
}

void tensor_reply(RedisModuleCtx *ctx, const Tensor *tensor, TensorFormat format) {
    if (format.meta) {
        RedisModule_ReplyWithArray(ctx, format.blob || format.values ? 6 : 4);
        RedisModule_ReplyWithCString(ctx, "dtype");
        RedisModule_ReplyWithCString(ctx, bridge_dtype(tensor->dtype)->name);
        RedisModule_ReplyWithCString(ctx, "shape");
        RedisModule_ReplyWithArray(ctx, tensor->ndim);
        for (int i = 0; i < tensor->ndim; i++) RedisModule_ReplyWithLongLong(ctx, tensor->shape[i]);
        if (format.blob) RedisModule_ReplyWithCString(ctx, "blob");
        if (format.values) RedisModule_ReplyWithCString(ctx, "values");
    }
    if (format.blob) RedisModule_ReplyWithStringBuffer(ctx, tensor->data, tensor->size);
    if (format.values) {
        const DtypeRow *row = dtype_row(tensor->dtype);
        RedisModule_ReplyWithArray(ctx, tensor->length);
        row->reply(row, ctx, tensor->data, tensor->length);
    }
}

static int tensorget_command(RedisModuleCtx *ctx, RedisModuleString **argv, int argc) {
    if (argc < 2) return reply_wrong_arity(ctx, argv);
    int replied;
    Tensor *tensor = lookup_value(ctx, argv[1], TensorType, &replied);
    if (replied) return REDISMODULE_OK;
    if (tensor == NULL) return reply_error(ctx, NO_TENSOR);
    TensorFormat format;
    if (tensor_parse_format(ctx, argv + 2, argc - 2, &format) == 0) tensor_reply(ctx, tensor, format);
    return REDISMODULE_OK;
}

int tensor_commands_register(RedisModuleCtx *ctx) {
    for (int i = 0; bridge_dtype(i); i++) {
        const char *name = bridge_dtype(i)->name;
        type_words = RedisModule_Realloc(type_words, (i + 1) * sizeof(*type_words));
        type_words[i] = RedisModule_CreateString(NULL, name, strlen(name));
    }
    blob_word = RedisModule_CreateString(NULL, "BLOB", 4);
    if (RedisModule_CreateCommand(ctx, "AI.TENSORSET", tensorset_command, "write deny-oom", 1, 1, 1) ||
        RedisModule_CreateCommand(ctx, "AI.TENSORGET", tensorget_command, "readonly", 1, 1, 1)) {
        return REDISMODULE_ERR;
    }
    return REDISMODULE_OK;
}
