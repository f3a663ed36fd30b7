/* tensor_data.c - tensors of elements that are texts (tensor_data.h). Main thread only. */
#include "commands/tensor_data.h"

#include <string.h>

#include "redis/command.h"

static int fill_numbers(Tensor *tensor, RedisModuleString **values) {
    const DtypeRow *row = dtype_row(tensor->dtype);
    uint64_t size = dtype_size(tensor->dtype);
    char *element = tensor->data;
    for (int64_t i = 0; i < tensor->length; i++, element += size) {
        if (row->parse(row, values[i], element) == -1) return -1;
    }
    return 0;
}

/* One NUL at the end of a value is its terminator, unless it is raw. */
static const char *string_value(const RedisModuleString *value, int is_raw, size_t *len) {
    const char *text = RedisModule_StringPtrLen(value, len);
    if (!is_raw && *len && text[*len - 1] == '\0') --*len;
    return text;
}

static void fill_strings(Tensor *tensor, RedisModuleString **values, int is_raw) {
    uint64_t at = 0;
    for (int64_t i = 0; i < tensor->length; i++) {
        size_t len;
        const char *text = string_value(values[i], is_raw, &len);
        tensor->offsets[i] = at;
        memcpy(tensor->data + at, text, len);
        tensor->data[at + len] = '\0';
        at += len + 1;
    }
}

int tensor_from_words(RedisModuleCtx *ctx, int dtype, int ndim, const int64_t *shape, int64_t length, uint64_t size,
                      int is_raw, RedisModuleString **values, int count, Tensor **tensor) {
    if (length != count) return parse_error(ctx, "wrong number of values was given in 'AI.TENSORSET' command");
    if (dtype_is_string(dtype)) {
        size = 0;
        for (int i = 0; i < count; i++) {
            size_t len;
            const char *text = string_value(values[i], is_raw, &len);
            if (!is_raw && memchr(text, '\0', len)) return parse_error(ctx, "C-string value contains null character");
            size += len + 1;
        }
    }
    Tensor *made = tensor_new(dtype, ndim, shape, length, size, 0);
    if (made == NULL) return parse_error(ctx, NO_MEMORY, (unsigned long long)size);
    if (made->offsets) {
        fill_strings(made, values, is_raw);
    } else if (fill_numbers(made, values) == -1) {
        tensor_unref(made);
        return parse_error(ctx, "invalid value");
    }
    *tensor = made;
    return 0;
}

/* What the AOF and the master send was accepted once, so no limit holds for it. */
int tensor_check_memory(RedisModuleCtx *ctx, int dtype, int64_t length, uint64_t size) {
    uint64_t memory = tensor_memory(dtype, length, size);
    if (wait_mode(ctx) == WAIT_NOT || memory <= tensor_max_bytes(ctx, memory)) return 0;
    return parse_error(ctx, TENSOR_TOO_LARGE, (unsigned long long)bridge_max_tensor_bytes());
}
