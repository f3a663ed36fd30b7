/* model.c - AI.MODELSTORE, AI.MODELSET, AI.MODELGET, AI.MODELDEL, AI._MODELSCAN. Main thread only.
 *
 * The blob is the command's own argument, held: copying it would make every client wait. */
#include <stdlib.h>
#include <string.h>

#include "commands/commands.h"
#include "commands/stored.h"
#include "redis/command.h"
#include "values/backend.h"
#include "values/model.h"
#include "values/names.h"

/* The two ways of storing differ in how INPUTS and OUTPUTS are counted. */
typedef enum { MODELSTORE, MODELSET } Dialect;

typedef struct Parser {
    RedisModuleCtx *ctx;
    RedisModuleString **argv;
    int argc;
    int at;
    Dialect dialect;
    Model *model;
    int has_inputs, has_outputs;
    int is_accepted; /* from the AOF or the master, which may hold what clients cannot store */
} Parser;

static int at_word(const Parser *p, const char *word) { return p->at < p->argc && arg_is(p->argv[p->at], word); }

/* BATCHSIZE and its like: the word, then a number of 0 or more. It needs another such number, which may not be 0. */
static int parse_number(Parser *p, const char *word, int64_t *number, const char *needed, int64_t needed_number) {
    long long value;
    if (needed_number == 0 && !p->is_accepted) return parse_error(p->ctx, "%s specified without %s", word, needed);
    if (p->at + 1 >= p->argc) return parse_error(p->ctx, "Insufficient arguments, missing model BLOB");
    if (RedisModule_StringToLongLong(p->argv[p->at + 1], &value) == REDISMODULE_ERR || value < 0) {
        return parse_error(p->ctx, "Invalid argument for %s", word);
    }
    *number = value;
    p->at += 2;
    return 0;
}

static int parse_counted_names(Parser *p, const char *noun, Names *names) {
    long long count;
    if (p->at >= p->argc || RedisModule_StringToLongLong(p->argv[p->at], &count) == REDISMODULE_ERR ||
        count < (p->is_accepted ? 0 : 1)) {
        return parse_error(p->ctx, "Invalid argument for %s_count", noun);
    }
    p->at++;
    if (count > p->argc - p->at) {
        return parse_error(p->ctx, "number of model %ss does not match the number of given arguments", noun);
    }
    for (long long i = 0; i < count; i++) names_append(names, arg_copy(p->argv[p->at++], NULL));
    return 0;
}

static void parse_listed_names(Parser *p, Names *names) {
    while (p->at < p->argc && !at_word(p, "OUTPUTS") && !at_word(p, "BLOB")) {
        names_append(names, arg_copy(p->argv[p->at++], NULL));
    }
}

static int parse_names(Parser *p, const char *section, const char *noun, Names *names) {
    int takes_names = backend_row(p->model->base.backend)->takes_names;
    p->at++;
    if (p->dialect == MODELSET) {
        parse_listed_names(p, names);
        if (takes_names || names->count == 0) return 0;
    } else if (takes_names) {
        return parse_counted_names(p, noun, names);
    }
    return parse_error(p->ctx, "%s argument should not be specified for this backend", section);
}

static int parse_options(Parser *p) {
    Model *model = p->model;
    for (int result = 0; result == 0;) {
        if (at_word(p, "TAG") && p->at + 1 < p->argc) {
            RedisModule_Free(model->base.tag);
            model->base.tag = arg_copy(p->argv[p->at + 1], &model->base.tag_size);
            p->at += 2;
        } else if (at_word(p, "BATCHSIZE")) {
            result = parse_number(p, "BATCHSIZE", &model->batchsize, NULL, 1);
        } else if (at_word(p, "MINBATCHSIZE")) {
            result = parse_number(p, "MINBATCHSIZE", &model->minbatchsize, "BATCHSIZE", model->batchsize);
        } else if (at_word(p, "MINBATCHTIMEOUT")) {
            result = parse_number(p, "MINBATCHTIMEOUT", &model->minbatchtimeout, "MINBATCHSIZE", model->minbatchsize);
        } else if (at_word(p, "INPUTS") && !p->has_inputs) {
            p->has_inputs = 1;
            result = parse_names(p, "INPUTS", "input", &model->inputs);
        } else if (at_word(p, "OUTPUTS") && !p->has_outputs) {
            p->has_outputs = 1;
            result = parse_names(p, "OUTPUTS", "output", &model->outputs);
        } else {
            return 0;
        }
    }
    return -1;
}

static int parse_blob(Parser *p) {
    if (backend_row(p->model->base.backend)->takes_names && !p->is_accepted) {
        if (p->model->inputs.count == 0) return parse_error(p->ctx, "INPUTS not specified for TF");
        if (p->model->outputs.count == 0) return parse_error(p->ctx, "OUTPUTS not specified for TF");
    }
    if (p->at >= p->argc) return parse_error(p->ctx, "Insufficient arguments, missing model BLOB");
    if (!at_word(p, "BLOB")) return parse_error(p->ctx, "Invalid argument, expected BLOB");
    if (p->at + 1 == p->argc) return parse_error(p->ctx, "Insufficient arguments, missing model BLOB");
    for (int i = p->at + 1; i < p->argc; i++) model_hold_piece(p->model, p->argv[i]);
    return 0;
}

/* Parses `backend device [options] BLOB chunk ...` and makes the model; -1 after replying an error. */
static int parse_model(RedisModuleCtx *ctx, RedisModuleString **argv, int argc, Dialect dialect, Model **model) {
    int backend = backend_from_name(argv[0]);
    if (backend == -1) return parse_error(ctx, "unsupported backend");
    size_t device_size;
    const char *device = RedisModule_StringPtrLen(argv[1], &device_size);
    if (!device_is_valid(device, device_size)) return parse_error(ctx, "Invalid DEVICE");

    Parser p = {.ctx = ctx, .argv = argv, .argc = argc, .at = 2, .dialect = dialect, .model = model_new(backend)};
    p.is_accepted = wait_mode(ctx) == WAIT_NOT;
    p.model->base.device = arg_copy(argv[1], NULL);
    p.model->base.tag = RedisModule_Strdup("");
    int result = parse_options(&p) == -1 ? -1 : parse_blob(&p);
    if (result == 0 && dialect == MODELSET && p.model->batchsize && !backend_row(backend)->modelset_batches) {
        result = parse_error(ctx, "Auto-batching not supported by the TFLITE backend");
    }
    if (result == -1) runnable_unref(&p.model->base);
    *model = p.model;
    return result;
}

static int store(RedisModuleCtx *ctx, RedisModuleString **argv, int argc, Dialect dialect) {
    Model *model = NULL;
    if (!key_accepts(ctx, argv[1], ModelType) || parse_model(ctx, argv + 2, argc - 2, dialect, &model) == -1) {
        return log_lost_value(ctx, argv);
    }
    return store_runnable(ctx, argv, argc, &model->base);
}

COMMAND_AS(modelstore, store(ctx, argv, argc, MODELSTORE), .name = "AI.MODELSTORE", .flags = "write deny-oom",
           .arity = -4, .since = "1.2.0", .keys = {{"key", KEY_WRITE}},
           .syntax = "key backend device [TAG tag] [BATCHSIZE max [MINBATCHSIZE min [MINBATCHTIMEOUT milliseconds]]] "
                     "[INPUTS count name [name ...]] [OUTPUTS count name [name ...]] BLOB chunk [chunk ...]",
           .summary = "Stores a model; the server goes on while it is compiled",
           .complexity = "O(1), and compiling it");

COMMAND_AS(modelset, store(ctx, argv, argc, MODELSET), .name = "AI.MODELSET", .flags = "write deny-oom", .arity = -4,
           .keys = {{"key", KEY_WRITE}},
           .syntax = "key backend device [TAG tag] [BATCHSIZE max [MINBATCHSIZE min [MINBATCHTIMEOUT milliseconds]]] "
                     "[INPUTS input [input ...]] [OUTPUTS output [output ...]] BLOB chunk [chunk ...]",
           .summary = "Stores a model (deprecated: use AI.MODELSTORE)", .complexity = "O(1), and compiling it");

/* ---- AI.MODELGET, AI.MODELDEL ------------------------------------------------------------------------------------ */

static void reply_blob(RedisModuleCtx *ctx, const Model *model) {
    int64_t chunks = model_chunk_count(model);
    if (chunks > 1) RedisModule_ReplyWithArray(ctx, chunks);
    for (int64_t i = 0; i < chunks; i++) {
        uint64_t size;
        char *scratch;
        const char *chunk = model_chunk(model, i, &size, &scratch);
        RedisModule_ReplyWithStringBuffer(ctx, chunk, size);
        RedisModule_Free(scratch);
    }
}

static void reply_names(RedisModuleCtx *ctx, const char *field, const Names *names) {
    RedisModule_ReplyWithCString(ctx, field);
    RedisModule_ReplyWithArray(ctx, names->count);
    for (int64_t i = 0; i < names->count; i++) RedisModule_ReplyWithCString(ctx, names->names[i]);
}

#define MAX_PORT_DEPTH 8

/* Whatever the texts are, this is one array. */
static void reply_ports(RedisModuleCtx *ctx, const Model *model, const char *field, const Names *ports) {
    int64_t counts[MAX_PORT_DEPTH] = {0};
    int depth = 0;
    RedisModule_ReplyWithCString(ctx, field);
    RedisModule_ReplyWithArray(ctx, REDISMODULE_POSTPONED_LEN);
    for (int64_t i = 0; runnable_is_ready(&model->base) && i < ports->count; i++) {
        const char *text = ports->names[i];
        counts[depth] += *text != ']';
        if (*text == '[' && depth + 1 < MAX_PORT_DEPTH) {
            RedisModule_ReplyWithArray(ctx, REDISMODULE_POSTPONED_LEN);
            counts[++depth] = 0;
        } else if (*text == ']') {
            if (depth > 0) RedisModule_ReplySetArrayLength(ctx, counts[depth--]);
        } else if (*text == ':') {
            RedisModule_ReplyWithLongLong(ctx, strtoll(text + 1, NULL, 10));
        } else if (*text == '$') {
            RedisModule_ReplyWithCString(ctx, text + 1);
        } else {
            RedisModule_ReplyWithNull(ctx);
        }
    }
    while (depth >= 0) RedisModule_ReplySetArrayLength(ctx, counts[depth--]);
}

static int modelget_command(RedisModuleCtx *ctx, RedisModuleString **argv, int argc) {
    Model *model = find_runnable(ctx, argv[1], KIND_MODEL);
    int meta, blob, full = 0;
    if (model == NULL || parse_reply_words(ctx, argv + 2, argc - 2, "BLOB", &meta, &blob, &full) == -1) {
        return REDISMODULE_OK;
    }

    if (meta) {
        RedisModule_ReplyWithArray(ctx, 16 + (full ? 4 : 0) + (blob ? 2 : 0));
        reply_text(ctx, "backend", backend_name(model->base.backend));
        reply_text(ctx, "device", model->base.device);
        RedisModule_ReplyWithCString(ctx, "tag");
        RedisModule_ReplyWithStringBuffer(ctx, model->base.tag, model->base.tag_size);
        reply_number(ctx, "batchsize", model->batchsize);
        reply_number(ctx, "minbatchsize", model->minbatchsize);
        reply_names(ctx, "inputs", model_inputs(model));
        reply_names(ctx, "outputs", model_outputs(model));
        reply_number(ctx, "minbatchtimeout", model->minbatchtimeout);
        if (full) {
            reply_ports(ctx, model, "input_details", &model->declared.input_ports);
            reply_ports(ctx, model, "output_details", &model->declared.output_ports);
        }
        if (blob) RedisModule_ReplyWithCString(ctx, "blob");
    }
    if (blob) reply_blob(ctx, model);
    return REDISMODULE_OK;
}

COMMAND(modelget, .name = "AI.MODELGET", .flags = "readonly", .arity = -2, .keys = {{"key", KEY_READ}},
        .syntax = "key [META [FULL]] [BLOB]", .summary = "Returns a model's metadata and blob",
        .complexity = "O(N) where N is the size of the blob");

COMMAND_AS(modeldel, delete_runnable(ctx, argv, KIND_MODEL), .name = "AI.MODELDEL", .flags = "write", .arity = 2,
           .keys = {{"key", KEY_DELETE}}, .syntax = "key", .summary = "Deletes a model");

COMMAND_AS(modelscan, scan_runnables(ctx, ModelType), .name = "AI._MODELSCAN", .flags = "readonly", .arity = 1,
           .summary = "Returns the keys and tags of all models", .complexity = "O(N) where N is the number of keys");

const Command *const model_commands[] = {&modelstore, &modelset, &modelget, &modeldel, &modelscan, NULL};
