/* tensor.c - AI.TENSORSET and AI.TENSORGET. Main thread only. */
#include "commands/tensor.h"

#include <string.h>

#include "commands/commands.h"
#include "commands/tensor_data.h"
#include "commands/tensor_from.h"
#include "redis/command.h"
#include "redis/event_loop.h"
#include "values/tensor.h"

#define NO_BLOB "an element of the tensor contains a null character, at which BLOB ends elements; use VALUES or RAW"

/* Deployed servers did not check a BOOL blob's last byte. What their AOFs and masters send is true or false all the
 * same. */
static Tensor *lenient_bools(int dtype, int ndim, const int64_t *shape, const char *data, size_t size,
                             const char **error) {
    char *bools = RedisModule_Alloc(size + 1);
    for (size_t i = 0; i < size; i++) bools[i] = data[i] != 0;
    Tensor *tensor = tensor_from_data(dtype, ndim, shape, bools, size, NULL, error);
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
    if (dtype_is_bool(dtype) && wait_mode(ctx) == WAIT_NOT) {
        return lenient_bools(dtype, ndim, shape, data, size, error);
    }
    if (size < TENSOR_LARGE || outlives) return tensor_from_data(dtype, ndim, shape, data, size, NULL, error);
    RedisModule_TrimStringAllocation(arg);
    return tensor_from_string(dtype, ndim, shape, RedisModule_HoldString(NULL, arg), NULL, error);
}

static int begins_data(const RedisModuleString *word) {
    return arg_is(word, "BLOB") || arg_is(word, "VALUES") || arg_is(word, "RAW") || arg_is(word, "FROM");
}

/* The index of the word behind FROM; argc: there is no FROM. */
static int find_source(RedisModuleString **argv, int argc, int at) {
    while (at < argc && !begins_data(argv[at])) at++;
    return at < argc && arg_is(argv[at], "FROM") ? at + 1 : argc;
}

/* The dimensions from argv[*at] on, up to BLOB, VALUES, RAW, FROM or the end. One may be `*`, if FROM follows. */
static int parse_shape(RedisModuleCtx *ctx, RedisModuleString **argv, int argc, int *at, int64_t *shape, int *ndim) {
    int may_fit = 1;
    for (; *at < argc && !begins_data(argv[*at]); (*at)++) {
        long long dim;
        if (may_fit && arg_is(argv[*at], "*") && find_source(argv, argc, *at) < argc) {
            dim = TENSOR_ANY;
            may_fit = 0;
        } else if (RedisModule_StringToLongLong(argv[*at], &dim) == REDISMODULE_ERR || dim < 0) {
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

    int64_t shape[TENSOR_MAX_DIMS];
    int ndim = 0, at = 1;
    if (parse_shape(ctx, argv, argc, &at, shape, &ndim) == -1) return -1;

    if (at < argc && arg_is(argv[at], "FROM")) {
        return tensor_from_keys(ctx, dtype, ndim, shape, argv + at + 1, argc - at - 1, tensor);
    }

    int64_t length;
    uint64_t size;
    if (tensor_measure(dtype, ndim, shape, &length, &size) == -1) {
        return parse_error(ctx, TENSOR_TOO_LARGE, (unsigned long long)bridge_max_tensor_bytes());
    }
    if (tensor_check_memory(ctx, dtype, length, size) == -1) return -1;

    if (at == argc) {
        *tensor = tensor_new(dtype, ndim, shape, length, size, 1);
        return *tensor ? 0 : parse_error(ctx, NO_MEMORY, (unsigned long long)size);
    }
    int is_raw = arg_is(argv[at], "RAW");
    if (is_raw && !dtype_is_string(dtype)) {
        return parse_error(ctx, "RAW is for STRING tensors only, use BLOB or VALUES");
    }
    if (is_raw || arg_is(argv[at], "VALUES")) {
        return tensor_from_words(ctx, dtype, ndim, shape, length, size, is_raw, argv + at + 1, argc - at - 1, tensor);
    }
    if (at + 2 != argc) {
        return parse_error(ctx, "a single binary string should come after the BLOB argument in 'AI.TENSORSET' command");
    }
    const char *error;
    *tensor = tensor_from_argument(ctx, dtype, ndim, shape, argv[at + 1], &error);
    return *tensor ? 0 : parse_error(ctx, "%s", error);
}

/* How many keys FROM reads, and which word is the first. */
static int find_keys(RedisModuleString **argv, int argc, int *first) {
    int at = find_source(argv, argc, 3);
    int count = at < argc ? tensor_from_find(argv + at, argc - at, first) : 0;
    if (count) *first += at;
    return count;
}

void tensor_report_keys(RedisModuleCtx *ctx, RedisModuleString **argv, int argc, int offset) {
    int first, count = find_keys(argv, argc, &first);
    for (int i = 0; i < count; i++) RedisModule_KeyAtPosWithFlags(ctx, offset + first + i, KEY_READ);
}

/* The server knows of the first key only, and does not check those that FROM reads. If the command told it where they
 * are, some cluster clients would ask a node for the keys of every AI.TENSORSET, and fail while that node is away. */
static int check_sources(RedisModuleCtx *ctx, RedisModuleString **argv, int argc) {
    int first, count = find_keys(argv, argc, &first);
    if (count == 0) return 0;
    const char *error = NULL;
    if (!keys_are_permitted(ctx, argv + first, count, REDISMODULE_CMD_KEY_ACCESS)) {
        error = "NOPERM No permissions to access a key that FROM reads";
    } else if (!keys_share_slot(ctx, argv[1], argv + first, count)) {
        error = "CROSSSLOT Keys in request don't hash to the same slot";
    }
    if (error) RedisModule_ReplyWithError(ctx, error);
    return error ? -1 : 0;
}

static int tensorset_command(RedisModuleCtx *ctx, RedisModuleString **argv, int argc) {
    if (check_sources(ctx, argv, argc) == -1) return REDISMODULE_OK;
    Tensor *tensor;
    if (!key_accepts(ctx, argv[1], TensorType) || tensor_parse(ctx, argv + 2, argc - 2, &tensor) == -1) {
        return log_lost_value(ctx, argv);
    }
    key_set_value(ctx, argv[1], TensorType, tensor);
    if (find_source(argv, argc, 3) < argc) {
        tensor_replicate(ctx, argv[1], tensor); /* the keys that it was read from may have changed elsewhere */
    } else {
        RedisModule_ReplicateVerbatim(ctx);
    }
    key_notify(ctx, argv[1], TENSOR_EVENT);
    return reply_ok(ctx);
}

COMMAND(
    tensorset, .name = "AI.TENSORSET", .flags = "write deny-oom", .arity = -4, .keys = {{"key", KEY_WRITE}},
    .syntax =
        "key type dimension [dimension ...] [data: BLOB blob | VALUES value [value ...] | RAW element [element ...] | "
        "FROM HASH hash FIELDS field_count field [field ...] [DEFAULT default] | "
        "FROM HASHES row_count row [row ...] FIELDS field_count field [field ...] [DEFAULT default] | "
        "FROM STRING string | FROM LIST list [COUNT count] [DEFAULT default] | "
        "FROM STREAM stream FIELD field [COUNT count] [DEFAULT default]]",
    .summary = "Stores a tensor", .complexity = "O(N) where N is the size of the tensor");

void tensor_replicate(RedisModuleCtx *ctx, RedisModuleString *key, const Tensor *tensor) {
    size_t count;
    RedisModuleString **words = tensor_words(tensor, &count);
    RedisModule_Replicate(ctx, "AI.TENSORSET", "sv", key, words, count);
    tensor_free_words(words, count);
    event_loop_note_written(tensor->size);
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
        } else if (arg_is(argv[i], "RAW")) {
            format->raw = 1;
        } else {
            return parse_error(ctx, "unsupported data format");
        }
    }
    if (format->blob && format->values) return parse_error(ctx, "both BLOB and VALUES specified");
    if (format->raw && (format->blob || format->values)) {
        return parse_error(ctx, "both %s and RAW specified", format->blob ? "BLOB" : "VALUES");
    }
    if (argc == 0) *format = (TensorFormat){.meta = 1, .blob = 1};
    return 0;
}

static void reply_values(RedisModuleCtx *ctx, const Tensor *tensor) {
    RedisModule_ReplyWithArray(ctx, tensor->length);
    const DtypeRow *row = dtype_row(tensor->dtype);
    if (tensor->offsets == NULL) {
        row->reply(row, ctx, tensor->data, tensor->length);
        return;
    }
    for (int64_t i = 0; i < tensor->length; i++) {
        Bytes element = tensor_element(tensor, i);
        RedisModule_ReplyWithStringBuffer(ctx, element.data, element.size);
    }
}

void tensor_reply(RedisModuleCtx *ctx, const Tensor *tensor, TensorFormat format) {
    if (format.raw) {
        format.values = tensor->offsets != NULL;
        format.blob = tensor->offsets == NULL;
    }
    if (format.blob && tensor_has_inner_nuls(tensor)) {
        reply_error(ctx, NO_BLOB);
        return;
    }
    if (format.meta) {
        RedisModule_ReplyWithArray(ctx, format.blob || format.values ? 6 : 4);
        reply_text(ctx, "dtype", bridge_dtype(tensor->dtype)->name);
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
    Tensor *tensor = lookup_value(ctx, argv[1], TensorType, NO_TENSOR);
    if (tensor == NULL) return REDISMODULE_OK;
    TensorFormat format;
    if (tensor_parse_format(ctx, argv + 2, argc - 2, &format) == 0) tensor_reply(ctx, tensor, format);
    return REDISMODULE_OK;
}

COMMAND(tensorget, .name = "AI.TENSORGET", .flags = "readonly", .arity = -2, .most_words = 4,
        .keys = {{"key", KEY_READ}}, .syntax = "key [META] [format: BLOB | VALUES | RAW]",
        .summary = "Returns a tensor's metadata and data", .complexity = "O(N) where N is the size of the tensor");

const Command *const tensor_commands[] = {&tensorset, &tensorget, NULL};
