/* model.c - AI.MODELSTORE, AI.MODELSET, AI.MODELCONFIG, AI.MODELGET, AI.MODELDEL, AI._MODELSCAN. Main thread only.
 *
 * The blob is the command's own argument, held: copying it would make every client wait. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "commands/commands.h"
#include "commands/stored.h"
#include "engine/jobs.h"
#include "engine/options.h"
#include "redis/command.h"
#include "run/waiter.h"
#include "values/backend.h"
#include "values/dtype.h"
#include "values/model.h"
#include "values/names.h"

typedef enum { MODELSTORE, MODELSET } Dialect;

typedef struct Parser {
    RedisModuleCtx *ctx;
    RedisModuleString **argv;
    int argc;
    int at;
    Dialect dialect;
    Model *model;
    int is_accepted; /* from the AOF or the master, which may hold what clients cannot store */
} Parser;

#define NO_BLOB "Insufficient arguments, missing model BLOB"

static int at_word(const Parser *p, const char *word) { return p->at < p->argc && arg_is(p->argv[p->at], word); }

/* A number of 0 or more; it may have a fraction where thousandths are not NULL. Any time that is given is one. */
static int read_number(const RedisModuleString *arg, int64_t *number, int64_t *thousandths) {
    long long whole;
    double real;
    if (thousandths) *thousandths = 0;
    if (arg_whole(arg, &whole) == 0) {
        *number = whole;
        return whole < 0 ? -1 : 0;
    }
    if (!thousandths || RedisModule_StringToDouble(arg, &real) == REDISMODULE_ERR ||
        !(real > 0 && real < MODEL_MAX_EXACT_MS)) {
        return -1;
    }
    int64_t all = llround(real * 1000);
    if (all == 0) all = 1;
    *number = all / 1000;
    *thousandths = all % 1000;
    return 0;
}

static int parse_real(Parser *p, const char *word, int64_t *number, int64_t *thousandths) {
    if (p->at + 1 >= p->argc || read_number(p->argv[p->at + 1], number, thousandths) == -1) {
        return parse_error(p->ctx, "Invalid argument for %s", word);
    }
    p->at += 2;
    return 0;
}

static int parse_number(Parser *p, const char *word, int64_t *number) { return parse_real(p, word, number, NULL); }

/* The limits that need no other. */
static int at_own_limit(const Parser *p) {
    return at_word(p, "MAXQUEUE") || at_word(p, "TIMEOUT") || at_word(p, "CACHE") || at_word(p, "PRIORITY");
}

static int parse_own_limit(Parser *p, ModelLimits *limits) {
    if (at_word(p, "MAXQUEUE")) return parse_number(p, "MAXQUEUE", &limits->maxqueue);
    if (at_word(p, "TIMEOUT")) return parse_number(p, "TIMEOUT", &limits->timeout);
    if (at_word(p, "CACHE")) return parse_number(p, "CACHE", &limits->cache);
    int priority = p->at + 1 < p->argc ? priority_named(p->argv[p->at + 1]) : 0;
    if (priority == 0) return parse_error(p->ctx, WRONG_PRIORITY);
    limits->priority = priority == PRIORITY_NORMAL ? 0 : priority;
    p->at += 2;
    return 0;
}

static int reply_lacking(const Parser *p, const char *word, const char *needed, int64_t needed_number) {
    const char *format = needed_number == AUTO_BATCHSIZE ? "%s specified with %s auto" : "%s specified without %s";
    return parse_error(p->ctx, format, word, needed);
}

static int parse_max_batch(Parser *p, ModelLimits *limits) {
    if (p->at + 1 >= p->argc || !arg_is(p->argv[p->at + 1], "AUTO")) {
        return parse_number(p, "BATCHSIZE", &limits->batchsize);
    }
    limits->batchsize = AUTO_BATCHSIZE;
    p->at += 2;
    return 0;
}

/* A number that needs another one. MODELSTORE looks at the value first, and a value of 0 needs nothing. */
static int parse_dependent(Parser *p, const char *word, int64_t *number, int64_t *thousandths, const char *needed,
                           int64_t needed_number) {
    int is_lacking = needed_number <= 0 && !p->is_accepted;
    if (is_lacking && p->dialect == MODELSET) return reply_lacking(p, word, needed, needed_number);
    if (parse_real(p, word, number, thousandths) == -1) return -1;
    int is_given = *number || (thousandths && *thousandths);
    return is_lacking && is_given ? reply_lacking(p, word, needed, needed_number) : 0;
}

static int parse_batchsize(Parser *p, const Model *model) {
    if (p->dialect == MODELSET && !backend_row(model->base.backend)->modelset_batches) {
        return parse_error(p->ctx, "Auto-batching not supported by the TFLITE backend");
    }
    return parse_max_batch(p, &p->model->limits);
}

static int parse_minbatchtimeout(Parser *p, ModelLimits *limits) {
    int lacks_batches = p->dialect == MODELSET && limits->batchsize == 0;
    return parse_dependent(p, "MINBATCHTIMEOUT", &limits->minbatchtimeout, &limits->minbatchtimeout_us,
                           lacks_batches ? "BATCHSIZE" : "MINBATCHSIZE", lacks_batches ? 0 : limits->minbatchsize);
}

/* `count type dimension ... type dimension ...`, as long as words can be that, becomes one text. */
static int parse_warmup(Parser *p) {
    size_t size = 0;
    char *text = RedisModule_Strdup("");
    for (p->at++; p->at < p->argc; p->at++) {
        long long number;
        size_t len;
        const char *word = RedisModule_StringPtrLen(p->argv[p->at], &len);
        int dtype = dtype_from_name(word, len), is_number = RedisModule_StringToLongLong(p->argv[p->at], &number) == 0;
        if (dtype == -1 && !is_number) break;
        char printed[32];
        int more = dtype == -1 ? snprintf(printed, sizeof(printed), "%s%lld", size ? " " : "", number)
                               : snprintf(printed, sizeof(printed), " %s", dtype_row(dtype)->python.name);
        text = RedisModule_Realloc(text, size + more + 1);
        memcpy(text + size, printed, more + 1);
        size += more;
    }
    const char *error = model_warmup_error(text);
    if (error == NULL) {
        names_append(&p->model->warmups, text);
        return 0;
    }
    RedisModule_Free(text);
    return parse_error(p->ctx, "Invalid argument for WARMUP: %s", error);
}

static int parse_options(Parser *p) {
    Model *model = p->model;
    ModelLimits *limits = &model->limits;
    for (int result = 0; result == 0;) {
        if (at_word(p, "TAG") && p->at + 1 < p->argc) {
            RedisModule_Free(model->base.tag);
            model->base.tag = arg_copy(p->argv[p->at + 1], &model->base.tag_size);
            p->at += 2;
        } else if (at_word(p, "BATCHSIZE")) {
            result = parse_batchsize(p, model);
        } else if (at_word(p, "MINBATCHSIZE")) {
            result = parse_dependent(p, "MINBATCHSIZE", &limits->minbatchsize, NULL, "BATCHSIZE", limits->batchsize);
        } else if (at_word(p, "MINBATCHTIMEOUT")) {
            result = parse_minbatchtimeout(p, limits);
        } else if (p->dialect == MODELSTORE && at_own_limit(p)) {
            result = parse_own_limit(p, limits);
        } else if (p->dialect == MODELSTORE && at_word(p, "WARMUP")) {
            result = parse_warmup(p);
        } else {
            return p->at < p->argc ? 0 : parse_error(p->ctx, NO_BLOB);
        }
    }
    return -1;
}

/* `INPUTS count name ...`, or the same with OUTPUTS. */
static int parse_counted_names(Parser *p, const char *section, const char *noun, Names *names) {
    long long count;
    if (!at_word(p, section)) return parse_error(p->ctx, "%s not specified for TF", section);
    p->at++;
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

static int parse_modelstore_names(Parser *p) {
    if (backend_row(p->model->base.backend)->takes_names) {
        if (parse_counted_names(p, "INPUTS", "input", &p->model->inputs) == -1) return -1;
        if (parse_counted_names(p, "OUTPUTS", "output", &p->model->outputs) == -1) return -1;
    } else if (at_word(p, "INPUTS") || at_word(p, "OUTPUTS")) {
        const char *section = at_word(p, "INPUTS") ? "INPUTS" : "OUTPUTS";
        return parse_error(p->ctx, "%s argument should not be specified for this backend", section);
    }
    return at_word(p, "BLOB") ? 0 : parse_error(p->ctx, "Invalid argument, expected BLOB");
}

/* All words up to BLOB are `INPUTS name ... OUTPUTS name ...` for TF; for the others they may be anything. */
static int parse_modelset_names(Parser *p) {
    int end = p->at, outputs;
    while (end < p->argc && !arg_is(p->argv[end], "BLOB")) end++;
    if (backend_row(p->model->base.backend)->takes_names) {
        if (end == p->at) return parse_error(p->ctx, "Insufficient arguments, INPUTS and OUTPUTS not specified");
        if (!at_word(p, "INPUTS")) return parse_error(p->ctx, "INPUTS not specified");
        for (outputs = p->at; outputs < end && !arg_is(p->argv[outputs], "OUTPUTS");) outputs++;
        if (outputs == end) return parse_error(p->ctx, "OUTPUTS not specified");
        while (++p->at < outputs) names_append(&p->model->inputs, arg_copy(p->argv[p->at], NULL));
        while (++p->at < end) names_append(&p->model->outputs, arg_copy(p->argv[p->at], NULL));
    }
    p->at = end;
    return 0;
}

static int parse_blob(Parser *p) {
    if (p->at + 1 >= p->argc) return parse_error(p->ctx, NO_BLOB);
    for (int i = p->at + 1; i < p->argc; i++) model_hold_piece(p->model, p->argv[i]);
    return 0;
}

static int is_keyword(const RedisModuleString *word) {
    static const char *const words[] = {"TAG", "BATCHSIZE", "INPUTS", "OUTPUTS", "BLOB"}; /* others are too long */
    for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
        if (arg_is(word, words[i])) return 1;
    }
    return 0;
}

static int parse_device(const Parser *p, const RedisModuleString *word) {
    size_t size;
    const char *device = RedisModule_StringPtrLen(word, &size);
    int is_valid = p->dialect == MODELSTORE ? device_is_exact(device, size) : size <= 10 && !is_keyword(word);
    if (!is_valid && !p->is_accepted) return parse_error(p->ctx, "Invalid DEVICE");
    if (!device_is_valid(device)) return parse_error(p->ctx, "unsupported device");
    p->model->base.device = arg_copy(word, NULL);
    return 0;
}

/* Parses `backend device [options] BLOB chunk ...` and makes the model; -1 after replying an error. */
static int parse_model(RedisModuleCtx *ctx, RedisModuleString **argv, int argc, Dialect dialect, Model **model) {
    int backend = backend_from_name(argv[0]);
    if (backend == -1) return parse_error(ctx, "unsupported backend");

    Parser p = {.ctx = ctx, .argv = argv, .argc = argc, .at = 2, .dialect = dialect, .model = model_new(backend)};
    p.is_accepted = wait_mode(ctx) == WAIT_NOT;
    p.model->base.tag = RedisModule_Strdup("");
    int failed = parse_device(&p, argv[1]) == -1 || parse_options(&p) == -1 ||
                 (dialect == MODELSTORE ? parse_modelstore_names(&p) : parse_modelset_names(&p)) == -1 ||
                 parse_blob(&p) == -1;
    if (failed) runnable_unref(&p.model->base);
    *model = p.model;
    return failed ? -1 : 0;
}

static int store(RedisModuleCtx *ctx, RedisModuleString **argv, int argc, Dialect dialect) {
    Model *model = NULL;
    if (!key_accepts(ctx, argv[1], ModelType) || parse_model(ctx, argv + 2, argc - 2, dialect, &model) == -1) {
        return log_lost_value(ctx, argv);
    }
    return store_runnable(ctx, argv, argc, &model->base);
}

COMMAND_AS(
    modelstore, store(ctx, argv, argc, MODELSTORE), .name = "AI.MODELSTORE", .flags = "write deny-oom", .arity = -6,
    .since = "1.2.0", .keys = {{"key", KEY_WRITE}},
    .syntax = "key backend device [TAG tag] [BATCHSIZE max [MINBATCHSIZE min [MINBATCHTIMEOUT milliseconds]]] "
              "[MAXQUEUE max] [TIMEOUT milliseconds] [PRIORITY priority] [CACHE bytes] [WARMUP count input "
              "[input ...]] [INPUTS count name [name ...]] [OUTPUTS count name [name ...]] BLOB chunk [chunk ...]",
    .summary = "Stores a model; the server goes on while it is compiled", .complexity = "O(1), and compiling it");

COMMAND_AS(modelset, store(ctx, argv, argc, MODELSET), .name = "AI.MODELSET", .flags = "write deny-oom", .arity = -4,
           .keys = {{"key", KEY_WRITE}},
           .syntax = "key backend device [TAG tag] [BATCHSIZE max [MINBATCHSIZE min [MINBATCHTIMEOUT milliseconds]]] "
                     "[INPUTS input [input ...]] [OUTPUTS output [output ...]] BLOB chunk [chunk ...]",
           .summary = "Stores a model (deprecated: use AI.MODELSTORE)", .complexity = "O(1), and compiling it");

/* ---- AI.MODELCONFIG ---------------------------------------------------------------------------------------------- */

static int parse_limit(Parser *p, ModelLimits *limits) {
    if (at_own_limit(p)) return parse_own_limit(p, limits);
    if (at_word(p, "BATCHSIZE")) return parse_max_batch(p, limits);
    if (at_word(p, "MINBATCHSIZE")) return parse_number(p, "MINBATCHSIZE", &limits->minbatchsize);
    if (at_word(p, "MINBATCHTIMEOUT")) {
        return parse_real(p, "MINBATCHTIMEOUT", &limits->minbatchtimeout, &limits->minbatchtimeout_us);
    }
    return parse_error(p->ctx, "Invalid argument: %s", arg_text(p->argv[p->at]));
}

/* A new number that would have no effect. Others may stay: BATCHSIZE 0 alone ends batching. */
static int check_dependents(const Parser *p, const ModelLimits *old, const ModelLimits *new) {
    if (p->is_accepted) return 0;
    if (new->minbatchsize && new->minbatchsize != old->minbatchsize && new->batchsize <= 0) {
        return reply_lacking(p, "MINBATCHSIZE", "BATCHSIZE", new->batchsize);
    }
    int is_other = new->minbatchtimeout != old->minbatchtimeout || new->minbatchtimeout_us != old->minbatchtimeout_us;
    if ((new->minbatchtimeout || new->minbatchtimeout_us) && is_other && new->minbatchsize == 0) {
        return parse_error(p->ctx, "MINBATCHTIMEOUT specified without MINBATCHSIZE");
    }
    return 0;
}

static int modelconfig_command(RedisModuleCtx *ctx, RedisModuleString **argv, int argc) {
    Model *model = find_runnable(ctx, argv[1], KIND_MODEL);
    if (model == NULL) return log_lost_value(ctx, argv);
    Parser p = {.ctx = ctx, .argv = argv, .argc = argc, .at = 2, .is_accepted = wait_mode(ctx) == WAIT_NOT};
    ModelLimits limits = model->limits;
    while (p.at < argc) {
        if (parse_limit(&p, &limits) == -1) return log_lost_value(ctx, argv);
    }
    if (check_dependents(&p, &model->limits, &limits) == -1) return REDISMODULE_OK;
    model_set_limits(model, &limits);
    jobs_post_limits(&model->base);
    RedisModule_CloseKey(RedisModule_OpenKey(ctx, argv[1], REDISMODULE_READ | REDISMODULE_WRITE)); /* it has changed */
    RedisModule_ReplicateVerbatim(ctx);
    stored_notify(ctx, argv);
    return reply_ok(ctx);
}

COMMAND(modelconfig, .name = "AI.MODELCONFIG", .flags = "write", .arity = -4, .since = "2.0.0",
        .keys = {{"key", KEY_CHANGE}},
        .syntax = "key [MAXQUEUE max] [TIMEOUT milliseconds] [CACHE bytes] [BATCHSIZE max] [MINBATCHSIZE min] "
                  "[MINBATCHTIMEOUT milliseconds] [PRIORITY priority]",
        .summary = "Changes how a stored model is batched and what its runs may take");

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

/* Those that clients of deployed servers do not know, where they are set. Returns how many words. */
static int reply_more_limits(RedisModuleCtx *ctx, const ModelLimits *limits) {
    int64_t us = limits->minbatchtimeout_us ? limits->minbatchtimeout * 1000 + limits->minbatchtimeout_us : 0;
    const struct {
        const char *field;
        int64_t number;
    } fields[] = {{"maxqueue", limits->maxqueue},
                  {"timeout", limits->timeout},
                  {"minbatchtimeout_us", us},
                  {"cache", limits->cache}};
    int words = 0;
    for (int i = 0; i < 4; i++) {
        if (fields[i].number == 0) continue;
        reply_number(ctx, fields[i].field, fields[i].number);
        words += 2;
    }
    if (limits->priority == 0) return words;
    reply_text(ctx, "priority", priority_name(limits->priority));
    return words + 2;
}

static int reply_model(RedisModuleCtx *ctx, const Model *model, int meta, int blob, int full) {
    const ModelLimits *limits = &model->limits;
    int words = full ? 20 : 16;
    if (meta) {
        RedisModule_ReplyWithArray(ctx, REDISMODULE_POSTPONED_LEN);
        reply_text(ctx, "backend", backend_name(model->base.backend));
        reply_text(ctx, "device", model->base.device);
        RedisModule_ReplyWithCString(ctx, "tag");
        RedisModule_ReplyWithStringBuffer(ctx, model->base.tag, model->base.tag_size);
        reply_number(ctx, "batchsize", limits->batchsize);
        reply_number(ctx, "minbatchsize", limits->minbatchsize);
        reply_names(ctx, "inputs", model_inputs(model));
        reply_names(ctx, "outputs", model_outputs(model));
        reply_number(ctx, "minbatchtimeout", limits->minbatchtimeout + (limits->minbatchtimeout_us > 0));
        if (full) {
            reply_ports(ctx, model, "input_details", &model->declared.input_ports);
            reply_ports(ctx, model, "output_details", &model->declared.output_ports);
        }
        words += reply_more_limits(ctx, limits);
        if (model->warmups.count) {
            reply_names(ctx, "warmup", &model->warmups);
            words += 2;
        }
        if (blob) RedisModule_ReplyWithCString(ctx, "blob");
    }
    if (blob) reply_blob(ctx, model);
    if (meta) RedisModule_ReplySetArrayLength(ctx, words + (blob ? 2 : 0));
    return REDISMODULE_OK;
}

/* Also where it cannot be compiled. */
static int reply_compiled(RedisModuleCtx *ctx, RedisModuleString **argv, int argc) {
    const JobWaiter *waiter = RedisModule_GetBlockedClientPrivateData(ctx);
    int meta, blob, full;
    parse_reply_words(ctx, waiter->argv + 2, waiter->argc - 2, "BLOB", &meta, &blob, &full);
    return reply_model(ctx, (const Model *)waiter->job->job.runnable, meta, blob, full);
}

/* Right after a load, and on a replica, the loader may not have come to the model. It tells the names. */
static int is_lacking_names(RedisModuleCtx *ctx, const Model *model, int full) {
    int are_given = backend_row(model->base.backend)->takes_names && !full;
    int has_failed = __atomic_load_n(&model->base.state->has_failed, __ATOMIC_RELAXED);
    if (runnable_is_ready(&model->base) || has_failed || are_given || safe_start()) return 0;
    return wait_mode(ctx) == WAIT_BLOCK;
}

static int modelget_command(RedisModuleCtx *ctx, RedisModuleString **argv, int argc) {
    Model *model = find_runnable(ctx, argv[1], KIND_MODEL);
    int meta, blob, full;
    if (model == NULL || parse_reply_words(ctx, argv + 2, argc - 2, "BLOB", &meta, &blob, &full) == -1) {
        return REDISMODULE_OK;
    }
    if (!meta || !is_lacking_names(ctx, model, full)) return reply_model(ctx, model, meta, blob, full);
    LoaderJob *job = job_new(JOB_LOAD, runnable_ref(&model->base));
    job->is_urgent = 1;
    return block_on_job(ctx, argv, argc, job, reply_compiled, NULL);
}

COMMAND(modelget, .name = "AI.MODELGET", .flags = "readonly", .arity = -2, .most_words = 4, .keys = {{"key", KEY_READ}},
        .syntax = "key [metadata: META | FULL] [BLOB]", .summary = "Returns a model's metadata and blob",
        .complexity = "O(N) where N is the size of the blob");

COMMAND_AS(modeldel, delete_runnable(ctx, argv, KIND_MODEL), .name = "AI.MODELDEL", .flags = "write", .arity = 2,
           .keys = {{"key", KEY_DELETE}}, .syntax = "key", .summary = "Deletes a model");

COMMAND_AS(modelscan, scan_runnables(ctx, ModelType), .name = "AI._MODELSCAN", .flags = "readonly", .arity = 1,
           .summary = "Returns the keys and tags of all models", .complexity = "O(N) where N is the number of keys");

const Command *const model_commands[] = {&modelstore, &modelset, &modelconfig, &modelget, &modeldel, &modelscan, NULL};
