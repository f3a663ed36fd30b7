/* dtype.c - the table of dtypes, and how their elements are parsed and replied (dtype.h).
 *
 * The table is constant: any thread. Elements are parsed and replied on the main thread. Numbers are little-endian in
 * memory, as in blobs and RDB files. */
#include "values/dtype.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

/* ---- integers ---------------------------------------------------------------------------------------------------- */

/* -(2^(b-1)-1) .. 2^(b-1)-1: clients rely on the most negative value being refused. */
static int parse_signed(const DtypeRow *row, const RedisModuleString *text, char *element) {
    long long value, max = (long long)(UINT64_MAX >> (65 - row->python.bits));
    if (RedisModule_StringToLongLong(text, &value) == REDISMODULE_ERR || value < -max || value > max) return -1;
    memcpy(element, &value, row->python.bits / 8);
    return 0;
}

/* As strict as StringToLongLong, which ends at 2^63-1. */
static int parse_unsigned(const DtypeRow *row, const RedisModuleString *text, char *element) {
    uint64_t value = 0, max = row->python.code == CODE_BOOL ? 1 : UINT64_MAX >> (64 - row->python.bits);
    size_t len;
    const char *digits = RedisModule_StringPtrLen(text, &len);
    if (len == 0 || (len > 1 && digits[0] == '0')) return -1;
    for (size_t i = 0; i < len; i++) {
        uint64_t digit = (uint64_t)digits[i] - '0';
        if (digit > 9 || __builtin_mul_overflow(value, 10, &value)) return -1;
        if (__builtin_add_overflow(value, digit, &value)) return -1;
    }
    if (value > max) return -1;
    memcpy(element, &value, row->python.bits / 8);
    return 0;
}

/* The bits of one element, the unused ones 0. */
static uint64_t load_word(const char *data, int64_t index, int bits) {
    uint64_t word = 0;
    memcpy(&word, data + index * (bits / 8), bits / 8);
    return word;
}

static void reply_signed(const DtypeRow *row, RedisModuleCtx *ctx, const char *data, int64_t length) {
    int bits = row->python.bits;
    for (int64_t i = 0; i < length; i++) {
        uint64_t word = load_word(data, i, bits);
        RedisModule_ReplyWithLongLong(ctx, (int64_t)(word << (64 - bits)) >> (64 - bits));
    }
}

/* The protocol's integers have 64 bits with the sign. Larger values become big numbers. */
static void reply_unsigned(const DtypeRow *row, RedisModuleCtx *ctx, const char *data, int64_t length) {
    char digits[24];
    for (int64_t i = 0; i < length; i++) {
        uint64_t value = load_word(data, i, row->python.bits);
        if (value <= INT64_MAX) {
            RedisModule_ReplyWithLongLong(ctx, (int64_t)value);
        } else {
            RedisModule_ReplyWithBigNumber(ctx, digits, snprintf(digits, sizeof(digits), "%" PRIu64, value));
        }
    }
}

/* ---- floating point ---------------------------------------------------------------------------------------------- */

/* A number in IEEE 754's layout, rounded to the nearest, ties to even. What is too large becomes infinite, as with
 * FLOAT. */
static uint64_t encode_real(double real, int bits, int exponent_bits) {
    int fraction_bits = bits - 1 - exponent_bits;
    uint64_t sign = signbit(real) ? 1ULL << (bits - 1) : 0;
    uint64_t infinity = ((1ULL << exponent_bits) - 1) << fraction_bits;
    if (isinf(real)) return sign | infinity;
    if (real == 0) return sign;
    int lowest = 2 - (1 << (exponent_bits - 1)); /* exponent of the smallest normal number, and of all smaller ones */
    int exponent = ilogb(real) < lowest ? lowest : ilogb(real);
    /* The leading 1 of a normal number adds one to the field of the exponent, as IEEE 754 wants. So does a carry. */
    uint64_t units = (uint64_t)nearbyint(ldexp(fabs(real), fraction_bits - exponent));
    uint64_t word = units + ((uint64_t)(exponent - lowest) << fraction_bits);
    return sign | (word < infinity ? word : infinity);
}

static double decode_real(uint64_t word, int bits, int exponent_bits) {
    int fraction_bits = bits - 1 - exponent_bits;
    int lowest = 2 - (1 << (exponent_bits - 1));
    uint64_t fraction = word & ((1ULL << fraction_bits) - 1);
    int exponent = (int)(word >> fraction_bits) & ((1 << exponent_bits) - 1);
    double real;
    if (exponent == (1 << exponent_bits) - 1) {
        real = fraction ? NAN : INFINITY;
    } else if (exponent == 0) {
        real = ldexp((double)fraction, lowest - fraction_bits);
    } else {
        real = ldexp((double)(fraction + (1ULL << fraction_bits)), exponent - 1 + lowest - fraction_bits);
    }
    return word >> (bits - 1) & 1 ? -real : real;
}

/* StringToDouble gives no NaN. C has types for 32 and 64 bits only. */
static int parse_real(const DtypeRow *row, const RedisModuleString *text, char *element) {
    double real;
    size_t size;
    const char *digits = RedisModule_StringPtrLen(text, &size);
    if (number_parse(digits, size, &real) && RedisModule_StringToDouble(text, &real) == REDISMODULE_ERR) return -1;
    if (row->python.bits == 64) {
        memcpy(element, &real, sizeof(real));
    } else if (row->python.bits == 32) {
        float single = (float)real;
        memcpy(element, &single, sizeof(single));
    } else {
        uint64_t word = encode_real(real, row->python.bits, row->exponent_bits);
        memcpy(element, &word, row->python.bits / 8);
    }
    return 0;
}

static double load_real(const DtypeRow *row, const char *data, int64_t index) {
    float single;
    double real;
    switch (row->python.bits) {
    case 64: memcpy(&real, data + index * sizeof(real), sizeof(real)); return real;
    case 32: memcpy(&single, data + index * sizeof(single), sizeof(single)); return single;
    default: return decode_real(load_word(data, index, row->python.bits), row->python.bits, row->exponent_bits);
    }
}

#define QUICK_REPLIES 0x00070200 /* the first version that is quick by itself; it writes other digits */

static void reply_real(const DtypeRow *row, RedisModuleCtx *ctx, const char *data, int64_t length) {
    static int version;
    if (version == 0) version = RedisModule_GetServerVersion();
    int is_quick = version >= QUICK_REPLIES || RedisModule_GetContextFlags(ctx) & REDISMODULE_CTX_FLAGS_RESP3;
    for (int64_t i = 0; i < length; i++) {
        char text[NUMBER_TEXT];
        double real = load_real(row, data, i);
        if (is_quick || !isfinite(real)) {
            RedisModule_ReplyWithDouble(ctx, real);
        } else {
            RedisModule_ReplyWithStringBuffer(ctx, text, number_print(real, text)); /* as ReplyWithDouble in RESP2 */
        }
    }
}

/* ---- the table --------------------------------------------------------------------------------------------------- */

static const DtypeRow dtypes[] = {
    /* name, code, bits, ONNX's number, TensorFlow's, PyTorch's */
    {{"FLOAT", CODE_FLOAT, 32, 1, 1, 6}, parse_real, reply_real, 8},
    {{"DOUBLE", CODE_FLOAT, 64, 11, 2, 7}, parse_real, reply_real, 11},
    {{"INT8", CODE_INT, 8, 3, 6, 1}, parse_signed, reply_signed, 0},
    {{"INT16", CODE_INT, 16, 5, 5, 2}, parse_signed, reply_signed, 0},
    {{"INT32", CODE_INT, 32, 6, 3, 3}, parse_signed, reply_signed, 0},
    {{"INT64", CODE_INT, 64, 7, 9, 4}, parse_signed, reply_signed, 0},
    {{"UINT8", CODE_UINT, 8, 2, 4, 0}, parse_unsigned, reply_unsigned, 0},
    {{"UINT16", CODE_UINT, 16, 4, 17, 27}, parse_unsigned, reply_unsigned, 0},
    {{"BOOL", CODE_BOOL, 8, 9, 10, 11}, parse_unsigned, reply_unsigned, 0},
    {{"STRING", CODE_STRING, 8, 8, 7, -1}, NULL, NULL, 0},
    {{"FLOAT16", CODE_FLOAT, 16, 10, 19, 5}, parse_real, reply_real, 5},
    {{"BFLOAT16", CODE_BFLOAT, 16, 16, 14, 15}, parse_real, reply_real, 8},
    {{"UINT32", CODE_UINT, 32, 12, 22, 28}, parse_unsigned, reply_unsigned, 0},
    {{"UINT64", CODE_UINT, 64, 13, 23, 29}, parse_unsigned, reply_unsigned, 0},
};

const DtypeRow *dtype_row(int64_t number) {
    return number >= 0 && number < (int64_t)(sizeof(dtypes) / sizeof(dtypes[0])) ? &dtypes[number] : NULL;
}

const Dtype *bridge_dtype(int number) {
    const DtypeRow *row = dtype_row(number);
    return row ? &row->python : NULL;
}

int dtype_from_name(const char *name, size_t len) {
    for (int i = 0; dtype_row(i); i++) {
        const char *known = dtypes[i].python.name;
        if (strlen(known) == len && strncasecmp(name, known, len) == 0) return i;
    }
    return -1;
}

int dtype_from_code(uint64_t code, uint64_t bits) {
    for (int i = 0; dtype_row(i); i++) {
        if (code == (uint64_t)dtypes[i].python.code && bits == (uint64_t)dtypes[i].python.bits) return i;
    }
    return -1;
}

static int number_of(const Dtype *dtype, int backend) {
    switch (backend) {
    case BACKEND_TF: return dtype->tf;
    case BACKEND_TORCH: return dtype->torch;
    default: return dtype->onnx;
    }
}

int dtype_from_library(int number, int backend) {
    for (int i = 0; dtype_row(i); i++) {
        if (number_of(&dtypes[i].python, backend) == number && !dtype_is_string(i)) return i;
    }
    return -1;
}

int dtype_nan(const DtypeRow *row, char *element) {
    if (row->exponent_bits == 0) return -1;
    uint64_t word = ((1ULL << (row->exponent_bits + 1)) - 1) << (row->python.bits - 2 - row->exponent_bits);
    memcpy(element, &word, row->python.bits / 8);
    return 0;
}

static int is_greater(const DtypeRow *row, const char *data, int64_t one, int64_t other) {
    int bits = row->python.bits;
    if (row->exponent_bits) {
        double a = load_real(row, data, one), b = load_real(row, data, other);
        return a > b || (isnan(b) && !isnan(a));
    }
    uint64_t a = load_word(data, one, bits), b = load_word(data, other, bits);
    if (row->python.code != CODE_INT) return a > b;
    return (int64_t)(a << (64 - bits)) > (int64_t)(b << (64 - bits));
}

int64_t dtype_argmax(const DtypeRow *row, const char *data, int64_t length) {
    int64_t best = 0;
    for (int64_t i = 1; i < length; i++) {
        if (is_greater(row, data, i, best)) best = i;
    }
    return best;
}

size_t dtype_print(const DtypeRow *row, const char *data, char text[NUMBER_TEXT]) {
    int bits = row->python.bits;
    if (row->exponent_bits) return number_print_short(load_real(row, data, 0), bits == 64, text);
    uint64_t word = load_word(data, 0, bits);
    if (row->python.code != CODE_INT) return snprintf(text, NUMBER_TEXT, "%" PRIu64, word);
    return snprintf(text, NUMBER_TEXT, "%" PRId64, (int64_t)(word << (64 - bits)) >> (64 - bits));
}

uint64_t dtype_size(int dtype) { return dtypes[dtype].python.bits / 8; }
int dtype_is_string(int dtype) { return dtypes[dtype].python.code == CODE_STRING; }
int dtype_is_bool(int dtype) { return dtypes[dtype].python.code == CODE_BOOL; }
