/* rows.c - the tensors of a run, a row for each key or entry (bindings.h). Main thread only. */
#include <string.h>

#include "bindings/bindings.h"
#include "commands/tensor_data.h"
#include "redis/command.h"
#include "values/tensor.h"

/* One input while its rows are read: numbers at once, texts when all are there. */
typedef struct RowsOf {
    char *data;                /* of numbers */
    RedisModuleString **texts; /* of a STRING; references */
    uint64_t row_size;
} RowsOf;

int rows_begin(Rows *rows, const Binding *b, int capacity) {
    *rows = (Rows){.binding = b, .inputs = RedisModule_Calloc(b->ninputs, sizeof(*rows->inputs))};
    uint64_t row_size = 1;
    for (int i = 0; i < b->ninputs; i++) row_size += b->inputs[i].length * dtype_size(b->inputs[i].dtype);
    if (row_size * capacity > ROWS_BYTES) capacity = row_size > ROWS_BYTES ? 1 : (int)(ROWS_BYTES / row_size);
    rows->capacity = capacity;
    for (int i = 0; i < b->ninputs; i++) {
        const BoundInput *input = &b->inputs[i];
        RowsOf *of = &rows->inputs[i];
        of->row_size = input->length * dtype_size(input->dtype);
        if (dtype_is_string(input->dtype)) {
            of->texts = RedisModule_Calloc(capacity * input->length, sizeof(*of->texts));
        } else {
            of->data = RedisModule_TryAlloc ? RedisModule_TryAlloc(capacity * of->row_size + 1)
                                            : RedisModule_Alloc(capacity * of->row_size + 1);
            if (of->data == NULL) return -1;
        }
    }
    return 0;
}

static char *missing(const RedisModuleString *field) {
    return error_text("there is no field '%s'; DEFAULT gives a value for what is missing", arg_text(field));
}

/* Reads one element, or all of a row as bytes. Returns an error, which the caller frees, or NULL. */
static char *read_number(const BoundInput *input, RowsOf *of, int row, int field, RedisModuleString *value) {
    const DtypeRow *type = dtype_row(input->dtype);
    char *to = of->data + row * of->row_size + field * dtype_size(input->dtype);
    const char *name = arg_text(input->fields[field]);
    if (value == NULL && input->fallback == NULL) return missing(input->fields[field]);
    if (value == NULL) {
        memcpy(to, input->element, dtype_size(input->dtype));
    } else if (input->is_bytes) {
        size_t size;
        const char *bytes = RedisModule_StringPtrLen(value, &size);
        if (size != of->row_size) {
            return error_text("the field '%s' has %llu bytes instead of %llu", name, (unsigned long long)size,
                              (unsigned long long)of->row_size);
        }
        memcpy(to, bytes, size);
    } else if (type->parse(type, value, to) == -1) {
        return error_text("the field '%s' is no value of the type %s", name, type->python.name);
    }
    return NULL;
}

static char *read_text(const BoundInput *input, RowsOf *of, int row, int field, RedisModuleString *value) {
    if (value == NULL) value = input->fallback;
    if (value == NULL) return missing(input->fields[field]);
    of->texts[row * input->length + field] = RedisModule_HoldString(NULL, value);
    return NULL;
}

static void drop_texts(const Binding *b, Rows *rows, int row) {
    for (int i = 0; i < b->ninputs; i++) {
        RedisModuleString **texts = rows->inputs[i].texts;
        for (int64_t at = row * b->inputs[i].length; texts && at < (row + 1) * b->inputs[i].length; at++) {
            if (texts[at]) RedisModule_FreeString(NULL, texts[at]);
            texts[at] = NULL;
        }
    }
}

char *rows_add(Rows *rows, FieldOf value_of, void *data) {
    const Binding *b = rows->binding;
    char *error = NULL;
    for (int i = 0; i < b->ninputs && !error; i++) {
        const BoundInput *input = &b->inputs[i];
        for (int j = 0; j < input->nfields && !error; j++) {
            size_t size = 0;
            RedisModuleString *value = value_of(data, input->fields[j]);
            error = (rows->inputs[i].texts ? read_text : read_number)(input, &rows->inputs[i], rows->count, j, value);
            if (value == NULL) continue;
            RedisModule_StringPtrLen(value, &size);
            rows->bytes += size;
            RedisModule_FreeString(NULL, value);
        }
    }
    if (error) {
        drop_texts(b, rows, rows->count);
    } else {
        rows->count++;
    }
    return error;
}

int rows_are_full(const Rows *rows) { return rows->count == rows->capacity || rows->bytes > ROWS_BYTES; }

int rows_finish(const Rows *rows, Tensor **tensors) {
    const Binding *b = rows->binding;
    for (int i = 0; i < b->ninputs; i++) {
        const BoundInput *input = &b->inputs[i];
        const char *error;
        uint64_t size = rows->count * rows->inputs[i].row_size;
        int64_t length = rows->count * input->length;
        input->shape[0] = rows->count;
        if (rows->inputs[i].texts) {
            tensor_from_words(NULL, input->dtype, input->ndim, input->shape, length, size, 1, rows->inputs[i].texts,
                              (int)length, &tensors[i]);
        } else {
            tensors[i] =
                tensor_from_data(input->dtype, input->ndim, input->shape, rows->inputs[i].data, size, NULL, &error);
        }
        if (tensors[i] == NULL) return -1;
    }
    return 0;
}

void rows_free(Rows *rows) {
    for (int row = 0; row < rows->count; row++) drop_texts(rows->binding, rows, row);
    for (int i = 0; i < rows->binding->ninputs; i++) {
        RedisModule_Free(rows->inputs[i].data);
        RedisModule_Free(rows->inputs[i].texts);
    }
    RedisModule_Free(rows->inputs);
    rows->inputs = NULL;
}
