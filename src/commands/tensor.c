/* tensor.c - AI.TENSORSET and AI.TENSORGET. Main thread only. */
#include "commands/tensor.h"

#include <string.h>

#include "commands/commands.h"
#include "redis/command.h"
#include "values/tensor.h"

#define NO_MEMORY "not enough memory for a tensor of %llu bytes"

static void store_number(Tensor *tensor, int64_t index, long long integer, double real) {
    switch (tensor->dtype) {
    case DTYPE_FLOAT: ((float *)tensor->data)[index] = (float)real; break;
    case DTYPE_DOUBLE: ((double *)tensor->data)[index] = real; break;
    case DTYPE_INT8: ((int8_t *)tensor->data)[index] = (int8_t)integer; break;
    case DTYPE_INT16: ((int16_t *)tensor->data)[index] = (int16_t)integer; break;
    case DTYPE_INT32: ((int32_t *)tensor->data)[index] = (int32_t)integer; break;
    case DTYPE_INT64: ((int64_t *)tensor->data)[index] = integer; break;
    case DTYPE_UINT16: ((uint16_t *)tensor->data)[index] = (uint16_t)integer; break;
    default: ((uint8_t *)tensor->data)[index] = (uint8_t)integer; break;
    }
}

/* Signed types take -(2^(b-1)-1) .. 2^(b-1)-1: clients rely on the most negative value being refused. */
static int integer_fits(int dtype, long long value) {
    if (dtype == DTYPE_BOOL) return value == 0 || value == 1;
    int bits = element_types[dtype].bits;
    if (dtype == DTYPE_UINT8 || dtype == DTYPE_UINT16) return value >= 0 && value < 1LL << bits;
    long long most = (long long)((1ULL << (bits - 1)) - 1);
    return value >= -most && value <= most;
}

static const char *fill_numbers(Tensor *tensor, RedisModuleString **values) {
    int is_real = tensor->dtype == DTYPE_FLOAT || tensor->dtype == DTYPE_DOUBLE;
    for (int64_t i = 0; i < tensor->length; i++) {
        long long integer = 0;
        double real = 0;
        if (is_real) {
            if (RedisModule_StringToDouble(values[i], &real) == REDISMODULE_ERR) return "invalid value";
        } else {
            if (RedisModule_StringToLongLong(values[i], &integer) == REDISMODULE_ERR) return "invalid value";
            if (!integer_fits(tensor->dtype, integer)) return "invalid value";
        }
        store_number(tensor, i, integer, real);
    }
    return NULL;
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

static int tensor_from_values(RedisModuleCtx *ctx, int dtype, int ndim, const int64_t *shape, int64_t length,
                              uint64_t size, RedisModuleString **values, int count, Tensor **tensor) {
    if (length != count) return parse_error(ctx, "wrong number of values was given in 'AI.TENSORSET' command");
    if (dtype == DTYPE_STRING) {
        size = 0;
        for (int i = 0; i < count; i++) {
            size_t len;
            const char *text = RedisModule_StringPtrLen(values[i], &len);
            if (memchr(text, '\0', len)) return parse_error(ctx, "C-string value contains null character");
            size += len + 1;
        }
    }
    Tensor *made = tensor_new(dtype, ndim, shape, length, size, 0);
    if (made == NULL) return parse_error(ctx, NO_MEMORY, (unsigned long long)size);
    const char *error = NULL;
    if (dtype == DTYPE_STRING) {
        fill_strings(made, values);
    } else {
        error = fill_numbers(made, values);
    }
    if (error) {
        tensor_unref(made);
        return parse_error(ctx, "%s", error);
    }
    *tensor = made;
    return 0;
}

/* Deployed servers did not check a BOOL blob's last byte. What their AOFs and masters send is true or false all the
 * same. */
static Tensor *lenient_bools(int ndim, const int64_t *shape, const char *data, size_t size, const char **error) {
    char *bools = RedisModule_Alloc(size + 1);
    for (size_t i = 0; i < size; i++) bools[i] = data[i] != 0;
    Tensor *tensor = tensor_from_data(DTYPE_BOOL, ndim, shape, bools, size, error);
    RedisModule_Free(bools);
    return tensor;
}

/* In MULTI and Lua the argument outlives this command, and a later command may hand the tensor to the lazy-free thread.
 * So it is copied there. */
static Tensor *tensor_from_argument(RedisModuleCtx *ctx, int dtype, int ndim, const int64_t *shape,
                                    RedisModuleString *arg, const char **error) {
    size_t size;
    const char *data = RedisModule_StringPtrLen(arg, &size);
    int outlives = RedisModule_GetContextFlags(ctx) &
                   (REDISMODULE_CTX_FLAGS_MULTI | REDISMODULE_CTX_FLAGS_LUA | REDISMODULE_CTX_FLAGS_DENY_BLOCKING);
    if (dtype == DTYPE_BOOL && wait_mode(ctx) == WAIT_NOT) return lenient_bools(ndim, shape, data, size, error);
    if (size < TENSOR_LARGE || outlives) return tensor_from_data(dtype, ndim, shape, data, size, error);
    RedisModule_TrimStringAllocation(arg);
    return tensor_from_string(dtype, ndim, shape, RedisModule_HoldString(NULL, arg), error);
}

/* The dimensions from argv[*at] on, up to BLOB, VALUES or the end. */
static int parse_shape(RedisModuleCtx *ctx, RedisModuleString **argv, int argc, long long min_dim, int *at,
                       int64_t *shape, int *ndim) {
    for (; *at < argc && !arg_is(argv[*at], "BLOB") && !arg_is(argv[*at], "VALUES"); (*at)++) {
        long long dim;
        if (RedisModule_StringToLongLong(argv[*at], &dim) == REDISMODULE_ERR || dim < min_dim) {
            return parse_error(ctx, "invalid or negative value found in tensor shape");
        }
        if (*ndim == TENSOR_MAX_DIMS) return parse_error(ctx, "tensor has more than %d dimensions", TENSOR_MAX_DIMS);
        shape[(*ndim)++] = dim;
    }
    return 0;
}

int tensor_parse(RedisModuleCtx *ctx, RedisModuleString **argv, int argc, Tensor **tensor) {
    size_t name_len;
    const char *name = RedisModule_StringPtrLen(argv[0], &name_len);
    int dtype = dtype_from_name(name, name_len);
    if (dtype == -1) return parse_error(ctx, "invalid data type");

    /* Clients cannot set an empty tensor. But models give them, and those come back from the AOF and the master. What
     * these send was accepted once, so no limit holds for it either. */
    int is_accepted = wait_mode(ctx) == WAIT_NOT;
    int64_t shape[TENSOR_MAX_DIMS];
    int ndim = 0, at = 1;
    if (parse_shape(ctx, argv, argc, is_accepted ? 0 : 1, &at, shape, &ndim) == -1) return -1;

    int64_t length;
    uint64_t size;
    int overflows = tensor_measure(dtype, ndim, shape, &length, &size) == -1;
    uint64_t memory = overflows ? 0 : tensor_memory(dtype, length, size);
    if (overflows || (!is_accepted && memory > tensor_max_bytes(ctx, memory))) {
        return parse_error(ctx, "tensor size exceeds the limit of %llu bytes (proto-max-bulk-len)",
                           (unsigned long long)bridge_max_tensor_bytes());
    }

    if (at == argc) {
        *tensor = tensor_new(dtype, ndim, shape, length, size, 1);
        return *tensor ? 0 : parse_error(ctx, NO_MEMORY, (unsigned long long)size);
    }
    if (arg_is(argv[at], "VALUES")) {
        return tensor_from_values(ctx, dtype, ndim, shape, length, size, argv + at + 1, argc - at - 1, tensor);
    }
    if (at + 2 != argc) {
        return parse_error(ctx, "a single binary string should come after the BLOB argument in 'AI.TENSORSET' command");
    }
    const char *error;
    *tensor = tensor_from_argument(ctx, dtype, ndim, shape, argv[at + 1], &error);
    return *tensor ? 0 : parse_error(ctx, "%s", error);
}

static int tensorset_command(RedisModuleCtx *ctx, RedisModuleString **argv, int argc) {
    if (argc < 4) return reply_wrong_arity(ctx, argv);
    Tensor *tensor;
    if (!key_accepts(ctx, argv[1], TensorType) || tensor_parse(ctx, argv + 2, argc - 2, &tensor) == -1) {
        return log_lost_value(ctx, argv);
    }
    key_set_value(ctx, argv[1], TensorType, tensor);
    RedisModule_ReplicateVerbatim(ctx);
    return reply_ok(ctx);
}

COMMAND(tensorset, .name = "AI.TENSORSET", .flags = "write deny-oom", .arity = -4, .since = "1.0.0",
        .keys = {{"key", KEY_WRITE}},
        .syntax = "key type dimension [dimension ...] [data: BLOB blob | VALUES value [value ...]]",
        .summary = "Stores a tensor", .complexity = "O(N) where N is the size of the tensor");

/* Words that every replicated tensor has, made at load. */
static RedisModuleString *type_words[DTYPE_STRING + 1], *blob_word;

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

static double real_at(const Tensor *tensor, int64_t index) {
    float single;
    double real;
    if (tensor->dtype == DTYPE_DOUBLE) {
        memcpy(&real, tensor->data + index * sizeof(real), sizeof(real));
        return real;
    }
    memcpy(&single, tensor->data + index * sizeof(single), sizeof(single));
    return single;
}

/* Numbers are little-endian here and in memory; a large tensor's data is not aligned. */
static long long integer_at(const Tensor *tensor, int64_t index) {
    uint64_t size = dtype_size(tensor->dtype);
    uint64_t bits = 0;
    memcpy(&bits, tensor->data + index * size, size);
    switch (tensor->dtype) {
    case DTYPE_INT8: return (int8_t)bits;
    case DTYPE_INT16: return (int16_t)bits;
    case DTYPE_INT32: return (int32_t)bits;
    default: return (int64_t)bits;
    }
}

static void reply_value(RedisModuleCtx *ctx, const Tensor *tensor, int64_t index) {
    if (tensor->dtype == DTYPE_STRING) {
        RedisModule_ReplyWithCString(ctx, tensor->data + tensor->offsets[index]);
    } else if (tensor->dtype == DTYPE_FLOAT || tensor->dtype == DTYPE_DOUBLE) {
        RedisModule_ReplyWithDouble(ctx, real_at(tensor, index));
    } else {
        RedisModule_ReplyWithLongLong(ctx, integer_at(tensor, index));
    }
}

static void reply_values(RedisModuleCtx *ctx, const Tensor *tensor) {
    RedisModule_ReplyWithArray(ctx, tensor->length);
    for (int64_t i = 0; i < tensor->length; i++) reply_value(ctx, tensor, i);
}

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
            return parse_error(ctx, "unsupported data format");
        }
        if (format->blob && format->values) return parse_error(ctx, "both BLOB and VALUES specified");
    }
    if (argc == 0) *format = (TensorFormat){.meta = 1, .blob = 1};
    return 0;
}

void tensor_reply(RedisModuleCtx *ctx, const Tensor *tensor, TensorFormat format) {
    if (format.meta) {
        RedisModule_ReplyWithArray(ctx, format.blob || format.values ? 6 : 4);
        reply_text(ctx, "dtype", element_types[tensor->dtype].name);
        RedisModule_ReplyWithCString(ctx, "shape");
        RedisModule_ReplyWithArray(ctx, tensor->ndim);
        for (int i = 0; i < tensor->ndim; i++) RedisModule_ReplyWithLongLong(ctx, tensor->shape[i]);
        if (format.blob) RedisModule_ReplyWithCString(ctx, "blob");
        if (format.values) RedisModule_ReplyWithCString(ctx, "values");
    }
    if (format.blob) RedisModule_ReplyWithStringBuffer(ctx, tensor->data, tensor->size);
    if (format.values) reply_values(ctx, tensor);
}

static int tensorget_command(RedisModuleCtx *ctx, RedisModuleString **argv, int argc) {
    if (argc < 2) return reply_wrong_arity(ctx, argv);
    Tensor *tensor = lookup_value(ctx, argv[1], TensorType, NO_TENSOR);
    if (tensor == NULL) return REDISMODULE_OK;
    TensorFormat format;
    if (tensor_parse_format(ctx, argv + 2, argc - 2, &format) == 0) tensor_reply(ctx, tensor, format);
    return REDISMODULE_OK;
}

COMMAND(tensorget, .name = "AI.TENSORGET", .flags = "readonly", .arity = -2, .since = "1.0.0",
        .keys = {{"key", KEY_READ}}, .syntax = "key [META] [format: BLOB | VALUES]",
        .summary = "Returns a tensor's metadata and data", .complexity = "O(N) where N is the size of the tensor");

void tensor_words_init(void) {
    for (int dtype = 0; dtype <= DTYPE_STRING; dtype++) {
        const char *name = element_types[dtype].name;
        type_words[dtype] = RedisModule_CreateString(NULL, name, strlen(name));
    }
    blob_word = RedisModule_CreateString(NULL, "BLOB", 4);
}

const Command *const tensor_commands[] = {&tensorset, &tensorget, NULL};
