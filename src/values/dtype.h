/* dtype.h - the types of elements: one row each, which all of C and Python read. Constant; any thread.
 *
 * A tensor holds the number of its row. A new dtype is a new row at the end: digests depend on the numbers. */
#pragma once

#include "bridge.h"
#include "redis/api.h"
#include "values/number_text.h"

typedef struct DtypeRow {
    Dtype python; /* the part that Python reads: name, code, bits, onnx, tf */
    /* Writes an element that VALUES gives as text; -1: it is none of this type. NULL, like the next, for STRING, whose
     * elements have any size. */
    int (*parse)(const struct DtypeRow *row, const RedisModuleString *text, char *element);
    /* Replies length elements, which need not be aligned. */
    void (*reply)(const struct DtypeRow *row, RedisModuleCtx *ctx, const char *data, int64_t length);
    int exponent_bits; /* 0 unless floating point */
} DtypeRow;

/* By number; NULL: no such dtype. */
const DtypeRow *dtype_row(int64_t number);

/* The number of a dtype, or -1. By a library's number it finds all but STRING. */
int dtype_from_name(const char *name, size_t len);
int dtype_from_code(uint64_t code, uint64_t bits);
int dtype_from_library(int number, int backend); /* the number of the backend's library */

/* Writes NaN, which no text of VALUES is; -1: the type has none. */
int dtype_nan(const DtypeRow *row, char *element);

/* The index of the largest of length elements, of equal ones the first; NaN is the smallest. */
int64_t dtype_argmax(const DtypeRow *row, const char *data, int64_t length);

/* Writes the first element as text, as short as tells it from others. Returns the length. */
size_t dtype_print(const DtypeRow *row, const char *data, char text[NUMBER_TEXT]);

uint64_t dtype_size(int dtype); /* bytes of one element; 1 for STRING: its NUL */
int dtype_is_string(int dtype);
int dtype_is_bool(int dtype);
