/* tensor_from.c - AI.TENSORSET ... FROM (tensor_from.h). Main thread only. */
#include "commands/tensor_from.h"

#include <string.h>

#include "commands/tensor_data.h"
#include "redis/command.h"

#define MAX_ELEMENTS (1024 * 1024) /* rows times columns may be far more than the words of the command */
#define DEFAULT_HELPS "DEFAULT gives a value for what is missing"
#define MISSING_WORD "a word is missing behind %s in FROM"

typedef struct Kind {
    const char *word;
    const char *name;
    int type;
    int is_counted; /* several keys */
    int is_series;  /* has as many elements as there are, and COUNT */
} Kind;

static const Kind kinds[] = {
    {"HASH", "hash", REDISMODULE_KEYTYPE_HASH, 0, 0},       {"HASHES", "hash", REDISMODULE_KEYTYPE_HASH, 1, 0},
    {"STRING", "string", REDISMODULE_KEYTYPE_STRING, 0, 0}, {"LIST", "list", REDISMODULE_KEYTYPE_LIST, 0, 1},
    {"STREAM", "stream", REDISMODULE_KEYTYPE_STREAM, 0, 1},
};

/* The words behind FROM. */
typedef struct Source {
    RedisModuleCtx *ctx; /* NULL: only finding the keys */
    RedisModuleString **argv;
    int argc;
    int at; /* the next word */
    const Kind *kind;
    int key, nkeys; /* index of the first, how many */
    int field, nfields;
    long long count;             /* -1: none */
    RedisModuleString *fallback; /* DEFAULT; NULL: none */
} Source;

/* ---- grammar ----------------------------------------------------------------------------------------------------- */

/* The word, and one more, or a count and as many. */
static int parse_section(Source *s, const char *word, int is_counted, int *first, int *n) {
    long long number = 1;
    if (s->at == s->argc || !arg_is(s->argv[s->at], word)) return parse_error(s->ctx, "FROM needs the word %s", word);
    if (++s->at == s->argc) return parse_error(s->ctx, MISSING_WORD, word);
    if (is_counted && RedisModule_StringToLongLong(s->argv[s->at++], &number) == REDISMODULE_ERR) number = -1;
    if (number <= 0 || number > s->argc - s->at) return parse_error(s->ctx, "wrong number behind %s in FROM", word);
    *first = s->at;
    *n = (int)number;
    s->at += *n;
    return 0;
}

static int parse_option(Source *s) {
    int is_default = arg_is(s->argv[s->at], "DEFAULT") && s->kind->type != REDISMODULE_KEYTYPE_STRING;
    if (!is_default && !(arg_is(s->argv[s->at], "COUNT") && s->kind->is_series)) {
        return parse_error(s->ctx, "unexpected argument behind FROM %s: %s", s->kind->word, arg_text(s->argv[s->at]));
    }
    if (++s->at == s->argc) return parse_error(s->ctx, MISSING_WORD, arg_text(s->argv[s->at - 1]));
    RedisModuleString *value = s->argv[s->at++];
    if (is_default) {
        s->fallback = value;
    } else if (RedisModule_StringToLongLong(value, &s->count) == REDISMODULE_ERR || s->count <= 0) {
        return parse_error(s->ctx, "COUNT in FROM is no positive number");
    }
    return 0;
}

static int parse_source(Source *s) {
    s->count = -1;
    for (size_t i = 0; s->argc && i < sizeof(kinds) / sizeof(kinds[0]); i++) {
        if (arg_is(s->argv[0], kinds[i].word)) s->kind = &kinds[i];
    }
    if (s->kind == NULL) return parse_error(s->ctx, "FROM needs HASH, HASHES, STRING, LIST or STREAM");
    if (parse_section(s, s->kind->word, s->kind->is_counted, &s->key, &s->nkeys) == -1) return -1;
    int has_fields = s->kind->type == REDISMODULE_KEYTYPE_HASH;
    const char *fields = has_fields ? "FIELDS" : s->kind->type == REDISMODULE_KEYTYPE_STREAM ? "FIELD" : NULL;
    if (fields && parse_section(s, fields, has_fields, &s->field, &s->nfields) == -1) return -1;
    while (s->at < s->argc) {
        if (parse_option(s) == -1) return -1;
    }
    return 0;
}

int tensor_from_find(RedisModuleString **argv, int argc, int *first) {
    Source s = {.argv = argv, .argc = argc};
    parse_source(&s);
    *first = s.key;
    return s.nkeys;
}

/* ---- one element ------------------------------------------------------------------------------------------------- */

/* The tensor while it is filled: numbers at once, texts when their size is known. */
typedef struct Reading {
    const Source *source;
    int dtype;
    const DtypeRow *row;
    Tensor *tensor;            /* of numbers */
    RedisModuleString **texts; /* of a STRING */
    uint64_t size;             /* of the texts */
    char fallback[8];          /* an element */
} Reading;

static int element_error(const Reading *r, int64_t at, int is_missing) {
    const Source *s = r->source;
    int row = s->kind->is_series ? 0 : (int)(at / s->nfields);
    const char *key = arg_text(s->argv[s->key + row]), *kind = s->kind->name;
    if (s->nfields == 0) {
        return parse_error(s->ctx, "an element of the %s '%s' is no value of the type %s", kind, key,
                           r->row->python.name);
    }
    const char *field = arg_text(s->argv[s->field + at % s->nfields]);
    if (is_missing) {
        const char *entry = s->kind->is_series ? "an entry of " : "";
        return parse_error(s->ctx, "%sthe %s '%s' has no field '%s'; " DEFAULT_HELPS, entry, kind, key, field);
    }
    return parse_error(s->ctx, "the field '%s' of the %s '%s' is no value of the type %s", field, kind, key,
                       r->row->python.name);
}

/* One string may be named many times. */
static int put_text(Reading *r, int64_t at, RedisModuleString *text) {
    size_t len;
    RedisModule_StringPtrLen(text, &len);
    r->texts[at] = RedisModule_HoldString(NULL, text);
    r->size += len + 1;
    return tensor_check_memory(r->source->ctx, r->dtype, at + 1, r->size);
}

/* Element number `at` is this value; NULL: it is missing. -1 after replying an error. */
static int put(Reading *r, int64_t at, RedisModuleString *value) {
    RedisModuleString *fallback = r->source->fallback;
    if (value == NULL && fallback == NULL) return element_error(r, at, 1);
    if (r->texts) return put_text(r, at, value ? value : fallback);
    uint64_t size = dtype_size(r->dtype);
    char *element = r->tensor->data + at * size;
    if (value == NULL) memcpy(element, r->fallback, size);
    return value && r->row->parse(r->row, value, element) == -1 ? element_error(r, at, 0) : 0;
}

/* The same, and releases the value. */
static int put_away(Reading *r, int64_t at, RedisModuleString *value) {
    int failed = put(r, at, value);
    if (value) RedisModule_FreeString(NULL, value);
    return failed;
}

static int parse_fallback(Reading *r) {
    RedisModuleString *text = r->source->fallback;
    if (text == NULL || r->row->parse == NULL || r->row->parse(r->row, text, r->fallback) == 0) return 0;
    if (arg_is(text, "nan") && dtype_nan(r->row, r->fallback) == 0) return 0;
    return parse_error(r->source->ctx, "DEFAULT in FROM is no value of the type %s", r->row->python.name);
}

/* ---- keys -------------------------------------------------------------------------------------------------------- */

/* Opens a key of the source's type. *key NULL: there is none. -1 after replying an error. */
static int open_key(const Source *s, int index, RedisModuleKey **key) {
    *key = RedisModule_OpenKey(s->ctx, s->argv[index], REDISMODULE_READ);
    if (*key == NULL || RedisModule_KeyType(*key) == s->kind->type) return 0;
    RedisModule_CloseKey(*key);
    return wrong_type_error(s->ctx, s->argv[index]);
}

/* Reads hashes, each a row. The server searches a small hash from its start for each field. So where many are wanted,
 * one pass over the hash is twice as fast. */
typedef struct Rows {
    Reading *reading;
    RedisModuleDict *columns; /* by name: its number + 1; NULL: no passes */
    RedisModuleScanCursor *cursor;
    unsigned char *seen; /* by column */
    int next;            /* the column that is expected: hashes often have their fields in one order */
    int64_t at;          /* the row's first element */
    int failed;
} Rows;

#define MANY_FIELDS 8
#define SMALL(wanted) (2 * (size_t)(wanted) + 32) /* fields of a hash in which so many are wanted */

/* Where no name comes twice. */
static void prepare_passes(Rows *rows, const Source *s) {
    int is_new = 1;
    if (s->nfields < MANY_FIELDS || s->nkeys == 1) return;
    rows->cursor = RedisModule_ScanCursorCreate();
    rows->columns = RedisModule_CreateDict(NULL);
    for (int i = 0; i < s->nfields && is_new; i++) {
        void *column = (void *)(intptr_t)(i + 1);
        is_new = RedisModule_DictSet(rows->columns, s->argv[s->field + i], column) == REDISMODULE_OK;
    }
    if (is_new) return;
    RedisModule_FreeDict(NULL, rows->columns);
    rows->columns = NULL;
}

static void put_field(RedisModuleKey *key, RedisModuleString *field, RedisModuleString *value, void *data) {
    Rows *rows = data;
    const Source *s = rows->reading->source;
    int column = rows->next;
    if (column == s->nfields || RedisModule_StringCompare(field, s->argv[s->field + column]) != 0) {
        column = (int)(intptr_t)RedisModule_DictGet(rows->columns, field, NULL) - 1;
    }
    if (column < 0 || rows->seen[column] || rows->failed) return; /* a pass may meet a field twice */
    rows->seen[column] = 1;
    rows->next = column + 1;
    rows->failed = put(rows->reading, rows->at + column, value);
}

static void pass_over(Rows *rows, RedisModuleKey *key) {
    int nfields = rows->reading->source->nfields;
    memset(rows->seen, 0, nfields);
    rows->next = 0;
    RedisModule_ScanCursorRestart(rows->cursor);
    while (RedisModule_ScanKey(key, rows->cursor, put_field, rows)) {
    }
    for (int i = 0; i < nfields && !rows->failed; i++) {
        if (!rows->seen[i]) rows->failed = put(rows->reading, rows->at + i, NULL);
    }
}

static void read_hash(Rows *rows, int row) {
    const Source *s = rows->reading->source;
    RedisModuleKey *key;
    rows->at = (int64_t)row * s->nfields;
    rows->failed = open_key(s, s->key + row, &key);
    if (rows->failed) return;
    if (key && rows->columns && RedisModule_ValueLength(key) <= SMALL(s->nfields)) {
        pass_over(rows, key);
    } else {
        for (int i = 0; i < s->nfields && !rows->failed; i++) {
            RedisModuleString *value = NULL;
            if (key) RedisModule_HashGet(key, REDISMODULE_HASH_NONE, s->argv[s->field + i], &value, NULL);
            rows->failed = put_away(rows->reading, rows->at + i, value);
        }
    }
    RedisModule_CloseKey(key);
}

static int read_hashes(Reading *r) {
    const Source *s = r->source;
    Rows rows = {.reading = r, .seen = RedisModule_Alloc(s->nfields)};
    prepare_passes(&rows, s);
    for (int i = 0; i < s->nkeys && !rows.failed; i++) read_hash(&rows, i);
    if (rows.cursor) RedisModule_ScanCursorDestroy(rows.cursor);
    if (rows.columns) RedisModule_FreeDict(NULL, rows.columns);
    RedisModule_Free(rows.seen);
    return rows.failed;
}

/* The wanted field of the entry at which the iterator is. All are read: the iterator goes on behind the last one. */
static RedisModuleString *entry_field(RedisModuleKey *key, long nfields, const RedisModuleString *wanted) {
    RedisModuleString *field, *value, *found = NULL;
    while (nfields-- > 0 && RedisModule_StreamIteratorNextField(key, &field, &value) == REDISMODULE_OK) {
        int is_found = found == NULL && RedisModule_StringCompare(field, wanted) == 0;
        if (is_found) found = value;
        RedisModule_FreeString(NULL, field);
        if (!is_found) RedisModule_FreeString(NULL, value);
    }
    return found;
}

/* The last entries, as the elements from `first` to before `end`. */
static int read_stream(Reading *r, RedisModuleKey *key, int64_t first, int64_t end) {
    RedisModuleStreamID id;
    long nfields;
    int failed = 0;
    RedisModule_StreamIteratorStart(key, REDISMODULE_STREAM_ITERATOR_REVERSE, NULL, NULL);
    while (end-- > first && !failed) {
        int found = RedisModule_StreamIteratorNextID(key, &id, &nfields) == REDISMODULE_OK;
        failed = put_away(r, end, found ? entry_field(key, nfields, r->source->argv[r->source->field]) : NULL);
    }
    RedisModule_StreamIteratorStop(key);
    return failed;
}

static int read_list(Reading *r, RedisModuleKey *key, int64_t first, int64_t end) {
    int failed = 0;
    for (int64_t i = first; i < end && !failed; i++) failed = put_away(r, i, RedisModule_ListGet(key, (long)(i - end)));
    return failed;
}

/* A list or a stream, whose last values fill the tensor's end. */
static int read_series(Reading *r, RedisModuleKey *key, int64_t length, int64_t taken) {
    for (int64_t i = 0; i < length - taken; i++) {
        if (put(r, i, NULL) == -1) return -1;
    }
    if (taken == 0) return 0;
    int is_list = r->source->kind->type == REDISMODULE_KEYTYPE_LIST;
    return (is_list ? read_list : read_stream)(r, key, length - taken, length);
}

/* ---- shape and tensor -------------------------------------------------------------------------------------------- */

/* How many elements the shape has without its `*`, whose place is *any, or NULL. */
static int64_t count_elements(int ndim, int64_t *shape, int64_t **any) {
    int64_t length = 1;
    *any = NULL;
    for (int i = 0; i < ndim; i++) {
        if (shape[i] == TENSOR_ANY) {
            *any = &shape[i];
        } else if (__builtin_mul_overflow(length, shape[i], &length)) {
            return INT64_MAX;
        }
    }
    return length;
}

/* Sets the `*`, and checks that the tensor has as many elements as the source. */
static int fit(const Source *s, int ndim, int64_t *shape, int64_t length) {
    int64_t *any, others = count_elements(ndim, shape, &any);
    if (any && others) *any = length / others;
    if (any && others == 0) *any = 0;
    if (others * (any ? *any : 1) == length) return 0;
    return parse_error(s->ctx, "FROM gives %lld elements, which do not fit the shape", (long long)length);
}

/* How many of the values of a list or stream are read, and how many elements the tensor has. */
static int measure_series(const Source *s, int64_t shape_length, int is_open, RedisModuleKey *key, int64_t *taken,
                          int64_t *length) {
    const char *name = arg_text(s->argv[s->key]);
    *taken = key ? (int64_t)RedisModule_ValueLength(key) : 0;
    int64_t most = s->count >= 0 ? s->count : is_open ? *taken : shape_length;
    if (*taken > most) *taken = most;
    *length = !is_open && *taken < shape_length ? shape_length : *taken;
    if (s->fallback) return 0;
    if (key == NULL) return parse_error(s->ctx, "there is no %s '%s'; " DEFAULT_HELPS, s->kind->name, name);
    if (*taken == *length) return 0;
    return parse_error(s->ctx, "%lld elements of the %s '%s' are too few for the shape; " DEFAULT_HELPS,
                       (long long)*taken, s->kind->name, name);
}

/* Makes the tensor of length elements. key: of a list or stream, of which so many are taken. */
static int read_all(const Source *s, int dtype, int ndim, int64_t *shape, RedisModuleKey *key, int64_t length,
                    int64_t taken, Tensor **tensor) {
    Reading r = {.source = s, .dtype = dtype, .row = dtype_row(dtype)};
    uint64_t size = length * dtype_size(dtype);
    if (length > MAX_ELEMENTS) return parse_error(s->ctx, "FROM reads %d elements at most", MAX_ELEMENTS);
    if (fit(s, ndim, shape, length) == -1 || parse_fallback(&r) == -1) return -1;
    if (dtype_is_string(dtype)) {
        r.texts = RedisModule_Calloc(length + 1, sizeof(*r.texts));
    } else if ((r.tensor = tensor_new(dtype, ndim, shape, length, size, 0)) == NULL) {
        return parse_error(s->ctx, NO_MEMORY, (unsigned long long)size);
    }
    int failed = s->kind->is_series ? read_series(&r, key, length, taken) : read_hashes(&r);
    if (r.texts && !failed) {
        failed = tensor_from_words(s->ctx, dtype, ndim, shape, length, size, 1, r.texts, (int)length, tensor);
    } else if (!failed) {
        *tensor = r.tensor;
    } else if (r.tensor) {
        tensor_unref(r.tensor);
    }
    for (int64_t i = 0; r.texts && i < length; i++) {
        if (r.texts[i]) RedisModule_FreeString(NULL, r.texts[i]);
    }
    RedisModule_Free(r.texts);
    return failed;
}

/* The bytes of a string: elements, or the one element of a STRING. */
static int read_string(const Source *s, int dtype, int ndim, int64_t *shape, RedisModuleKey *key, Tensor **tensor) {
    size_t size;
    const char *data = RedisModule_StringDMA(key, &size, REDISMODULE_READ), *error;
    int is_text = dtype_is_string(dtype);
    if (fit(s, ndim, shape, is_text ? 1 : (int64_t)(size / dtype_size(dtype))) == -1) return -1;
    if (!is_text) {
        *tensor = tensor_from_data(dtype, ndim, shape, data, size, NULL, &error);
        return *tensor ? 0 : parse_error(s->ctx, "%s", error);
    }
    *tensor = tensor_new(dtype, ndim, shape, 1, size + 1, 0);
    if (*tensor == NULL) return parse_error(s->ctx, NO_MEMORY, (unsigned long long)size);
    memcpy((*tensor)->data, data, size);
    (*tensor)->data[size] = '\0';
    (*tensor)->offsets[0] = 0;
    return 0;
}

int tensor_from_keys(RedisModuleCtx *ctx, int dtype, int ndim, int64_t *shape, RedisModuleString **argv, int argc,
                     Tensor **tensor) {
    Source s = {.ctx = ctx, .argv = argv, .argc = argc};
    if (parse_source(&s) == -1) return -1;
    if (s.nfields && !s.kind->is_series) {
        return read_all(&s, dtype, ndim, shape, NULL, (int64_t)s.nkeys * s.nfields, 0, tensor);
    }
    RedisModuleKey *key;
    int failed = open_key(&s, s.key, &key);
    if (failed) return failed;
    int64_t *any, taken, length, shape_length = count_elements(ndim, shape, &any);
    if (s.kind->is_series) {
        failed = measure_series(&s, shape_length, any != NULL, key, &taken, &length);
        if (!failed) failed = read_all(&s, dtype, ndim, shape, key, length, taken, tensor);
    } else if (key) {
        failed = read_string(&s, dtype, ndim, shape, key, tensor);
    } else {
        failed = parse_error(ctx, "there is no string '%s'", arg_text(argv[s.key]));
    }
    RedisModule_CloseKey(key);
    return failed;
}
