/* definition.c - what AI.BIND says: its grammar, and who holds it (bindings.h). Main thread only. */
#include <string.h>

#include "bindings/bindings.h"
#include "redis/command.h"
#include "values/tensor.h"

#define MAX_ROW (512LL * 1024 * 1024) /* bytes: what a field can hold */

typedef struct Parser {
    RedisModuleCtx *ctx;
    RedisModuleString **words;
    int count, at; /* the next word */
    Binding *binding;
} Parser;

static int is_next(const Parser *p, const char *word) { return p->at < p->count && arg_is(p->words[p->at], word); }

static int take(Parser *p, const char *word) {
    if (!is_next(p, word)) return 0;
    p->at++;
    return 1;
}

/* The word that must follow. */
static int take_text(Parser *p, const char *behind, RedisModuleString **text) {
    if (p->at == p->count) return parse_error(p->ctx, "a word is missing behind %s", behind);
    *text = p->words[p->at++];
    return 0;
}

static int take_count(Parser *p, const char *behind, int *count) {
    long long number;
    RedisModuleString *text = NULL;
    if (take_text(p, behind, &text) == -1) return -1;
    if (RedisModule_StringToLongLong(text, &number) == REDISMODULE_ERR || number <= 0 || number > p->count - p->at) {
        return parse_error(p->ctx, "wrong number behind %s: %s", behind, arg_text(text));
    }
    *count = (int)number;
    return 0;
}

/* A count and as many words. */
static int take_list(Parser *p, const char *behind, RedisModuleString ***list, int *count) {
    if (take_count(p, behind, count) == -1) return -1;
    *list = p->words + p->at;
    p->at += *count;
    return 0;
}

/* ON HASH | STREAM, PREFIX | KEYS n name ... */
static int parse_on(Parser *p) {
    Binding *b = p->binding;
    if (!take(p, "ON")) return parse_error(p->ctx, "ON is missing behind the name");
    b->is_stream = is_next(p, "STREAM");
    if (!take(p, "HASH") && !take(p, "STREAM")) return parse_error(p->ctx, "ON needs HASH or STREAM");
    b->is_exact = is_next(p, "KEYS");
    if (!take(p, "PREFIX") && !take(p, "KEYS")) return parse_error(p->ctx, "ON needs PREFIX or KEYS");
    return take_list(p, b->is_exact ? "KEYS" : "PREFIX", &b->prefixes, &b->nprefixes);
}

/* AS type dimension ...; a row of no dimension is one element. */
static int parse_type(Parser *p, BoundInput *input) {
    RedisModuleString *type = NULL;
    long long dimension;
    if (take_text(p, "AS", &type) == -1) return -1;
    size_t size;
    const char *name = RedisModule_StringPtrLen(type, &size);
    input->dtype = dtype_from_name(name, size);
    if (input->dtype == -1) return parse_error(p->ctx, "AS needs a type of tensors, not %s", arg_text(type));
    int first = p->at;
    while (p->at < p->count && RedisModule_StringToLongLong(p->words[p->at], &dimension) == REDISMODULE_OK) p->at++;
    input->ndim = 1 + p->at - first;
    if (input->ndim == 1 && input->nfields > 1) input->ndim = 2;
    if (input->ndim > TENSOR_MAX_DIMS) return parse_error(p->ctx, "AS has more than %d dimensions", TENSOR_MAX_DIMS);
    input->shape = RedisModule_Calloc(input->ndim, sizeof(*input->shape));
    input->shape[input->ndim - 1] = input->nfields;
    input->length = p->at == first ? input->nfields : 1;
    for (int i = first; i < p->at; i++) {
        RedisModule_StringToLongLong(p->words[i], &dimension);
        input->shape[1 + i - first] = dimension;
        if (dimension <= 0 || __builtin_mul_overflow(input->length, dimension, &input->length) ||
            input->length > MAX_ROW / (int64_t)dtype_size(input->dtype)) {
            return parse_error(p->ctx, "AS has a wrong dimension, or too large a row: %lld", dimension);
        }
    }
    return 0;
}

static int parse_fallback(Parser *p, BoundInput *input) {
    const DtypeRow *row = dtype_row(input->dtype);
    if (take_text(p, "DEFAULT", &input->fallback) == -1) return -1;
    if (input->is_bytes) return parse_error(p->ctx, "DEFAULT is not for a field that holds all elements as bytes");
    if (row->parse == NULL || row->parse(row, input->fallback, input->element) == 0) return 0;
    if (arg_is(input->fallback, "nan") && dtype_nan(row, input->element) == 0) return 0;
    return parse_error(p->ctx, "DEFAULT is no value of the type %s", row->python.name);
}

/* FIELDS n field ... [AS type dimension ...] [DEFAULT value], one or more times */
static int parse_input(Parser *p) {
    Binding *b = p->binding;
    b->inputs = RedisModule_Realloc(b->inputs, (b->ninputs + 1) * sizeof(*b->inputs));
    BoundInput *input = &b->inputs[b->ninputs++];
    *input = (BoundInput){.dtype = dtype_from_name("FLOAT", 5), .ndim = 2};
    if (take_list(p, "FIELDS", &input->fields, &input->nfields) == -1) return -1;
    if (take(p, "AS")) {
        if (parse_type(p, input) == -1) return -1;
    } else {
        input->shape = RedisModule_Calloc(2, sizeof(*input->shape));
        input->shape[1] = input->length = input->nfields;
    }
    input->is_bytes = input->nfields == 1 && input->length > 1 && !dtype_is_string(input->dtype);
    if (!input->is_bytes && input->length != input->nfields) {
        return parse_error(p->ctx,
                           "AS has %lld elements, and FIELDS %d fields; one field of a number type may hold all "
                           "elements as bytes",
                           (long long)input->length, input->nfields);
    }
    return take(p, "DEFAULT") ? parse_fallback(p, input) : 0;
}

/* MODEL key, or SCRIPT key function */
static int parse_runnable(Parser *p) {
    Binding *b = p->binding;
    if (take(p, "MODEL")) {
        b->kind = KIND_MODEL;
        return take_text(p, "MODEL", &b->runnable);
    }
    if (!take(p, "SCRIPT")) return parse_error(p->ctx, "MODEL or SCRIPT is missing behind the fields");
    b->kind = KIND_SCRIPT;
    return take_text(p, "SCRIPT", &b->runnable) == -1 ? -1 : take_text(p, "the script's key", &b->function);
}

/* SET n field [AS form] ... */
static int parse_set(Parser *p) {
    Binding *b = p->binding;
    int count;
    if (b->nset) return parse_error(p->ctx, "SET comes twice");
    if (take_count(p, "SET", &count) == -1) return -1;
    b->outputs = RedisModule_Calloc(count, sizeof(*b->outputs));
    for (b->nset = 0; b->nset < count; b->nset++) {
        HashField *output = &b->outputs[b->nset];
        if (take_text(p, "SET", &output->name) == -1) return -1;
        if (is_next(p, "AS") && hash_parse_form(p->ctx, p->words, p->count, &p->at, &output->form) == -1) return -1;
    }
    return 0;
}

/* An option with one word behind it. */
static int parse_option(Parser *p, RedisModuleString **option) {
    const char *name = arg_text(p->words[p->at++]);
    if (*option) return parse_error(p->ctx, "%s comes twice", name);
    return take_text(p, name, option);
}

static int parse_results(Parser *p) {
    Binding *b = p->binding;
    RedisModuleString *maxlen = NULL;
    while (p->at < p->count) {
        int failed;
        if (take(p, "SET")) {
            failed = parse_set(p);
        } else if (is_next(p, "VECTORSET") && !b->is_stream) {
            failed = parse_option(p, &b->vector_set);
        } else if (is_next(p, "STREAM") && b->is_stream) {
            failed = parse_option(p, &b->stream);
        } else if (is_next(p, "MAXLEN") && b->stream) {
            failed = parse_option(p, &maxlen);
            if (!failed && (RedisModule_StringToLongLong(maxlen, &b->maxlen) == REDISMODULE_ERR || b->maxlen <= 0)) {
                failed = parse_error(p->ctx, "MAXLEN is no positive number");
            }
        } else if (is_next(p, "VERSION")) {
            failed = parse_option(p, &b->version);
        } else if (is_next(p, "ERROR")) {
            failed = parse_option(p, &b->error);
        } else {
            failed = parse_error(p->ctx, "unexpected argument: %s", arg_text(p->words[p->at]));
        }
        if (failed) return -1;
    }
    if (b->nset == 0 && b->vector_set == NULL) return parse_error(p->ctx, "SET is missing: the fields of the results");
    if (b->is_stream && b->stream == NULL) return parse_error(p->ctx, "STREAM is missing: where the results go");
    b->noutputs = b->nset ? b->nset : 1;
    return 0;
}

static int is_field(const BoundInput *input, const RedisModuleString *name) {
    for (int i = 0; i < input->nfields; i++) {
        if (RedisModule_StringCompare(input->fields[i], name) == 0) return 1;
    }
    return 0;
}

/* What a binding sets in a hash must not be what it reads there. */
static int check_fields(const Parser *p) {
    const Binding *b = p->binding;
    const RedisModuleString *set[] = {b->version, b->error};
    for (int i = 0; !b->is_stream && i < b->nset + 2; i++) {
        const RedisModuleString *name = i < b->nset ? b->outputs[i].name : set[i - b->nset];
        for (int j = 0; name && j < b->ninputs; j++) {
            if (is_field(&b->inputs[j], name)) {
                return parse_error(p->ctx, "the field '%s' is read and set; name another to set", arg_text(name));
            }
        }
    }
    return 0;
}

/* A stream that gets the results of its own entries would never end. */
static int check_stream(const Parser *p) {
    const Binding *b = p->binding;
    size_t size, prefix_size;
    const char *name = b->stream ? RedisModule_StringPtrLen(b->stream, &size) : NULL;
    for (int i = 0; name && i < b->nprefixes; i++) {
        const char *prefix = RedisModule_StringPtrLen(b->prefixes[i], &prefix_size);
        if (prefix_size > size || (b->is_exact && prefix_size != size) || memcmp(prefix, name, prefix_size) != 0)
            continue;
        return parse_error(p->ctx, "the stream '%s' is read and gets the results; name another for them",
                           arg_text(b->stream));
    }
    return 0;
}

static int parse(Parser *p) {
    if (parse_on(p) == -1) return -1;
    if (!is_next(p, "FIELDS")) return parse_error(p->ctx, "FIELDS is missing: what the model gets");
    while (take(p, "FIELDS")) {
        if (parse_input(p) == -1) return -1;
    }
    if (parse_runnable(p) == -1 || parse_results(p) == -1 || check_fields(p) == -1) return -1;
    return check_stream(p);
}

Binding *binding_parse(RedisModuleCtx *ctx, RedisModuleString **words, int count, int db, RedisModuleString *user) {
    Binding *b = RedisModule_Calloc(1, sizeof(*b));
    *b = (Binding){.refs = 1, .db = db, .nwords = count, .name = words[0], .user = RedisModule_HoldString(NULL, user)};
    b->words = RedisModule_Alloc(count * sizeof(*words));
    for (int i = 0; i < count; i++) b->words[i] = RedisModule_HoldString(NULL, words[i]);
    b->pending = RedisModule_CreateDict(NULL);
    Parser p = {.ctx = ctx, .words = b->words, .count = count, .at = 1, .binding = b};
    if (parse(&p) == 0) return b;
    binding_unref(b);
    return NULL;
}

void binding_unref(Binding *b) {
    if (--b->refs > 0) return;
    pending_clear(b);
    RedisModule_FreeDict(NULL, b->pending);
    if (b->cursor) RedisModule_ScanCursorDestroy(b->cursor);
    for (int i = 0; i < b->ninputs; i++) RedisModule_Free(b->inputs[i].shape);
    for (int i = 0; i < b->nwords; i++) RedisModule_FreeString(NULL, b->words[i]);
    if (b->last_error_key) RedisModule_FreeString(NULL, b->last_error_key);
    RedisModule_FreeString(NULL, b->user);
    RedisModule_Free(b->last_error);
    RedisModule_Free(b->inputs);
    RedisModule_Free(b->outputs);
    RedisModule_Free(b->words);
    RedisModule_Free(b);
}
