/* execute_commands.c - AI.MODELEXECUTE and AI.MODELRUN: parse, look the keys up, send the run off; store what comes
 * back. Main thread only. */
#include "command.h"
#include "model.h"
#include "run.h"
#include "tensor.h"

/* Where the keys are in a command's arguments, and its time-out. */
typedef struct Layout {
    int input, ninputs; /* index of the first, how many */
    int output, noutputs;
    long long timeout; /* ms, 0: none */
} Layout;

/* Where a parser puts its error: nobody reads one while Redis only asks where the keys are. */
typedef struct Parser {
    RedisModuleCtx *ctx; /* NULL: only finding the keys */
    RedisModuleString **argv;
    int argc;
    int at;
    const Model *model; /* NULL: only finding the keys */
    Layout layout;
} Parser;

#define FAIL(p, ...) ((p)->ctx ? reply_error((p)->ctx, __VA_ARGS__) : 0, -1)

static int at_word(const Parser *p, const char *word) {
    return p->at < p->argc && arg_is(p->argv[p->at], word);
}

static int parse_timeout(Parser *p) {
    p->at++;
    if (p->at == p->argc) return FAIL(p, "No value provided for TIMEOUT");
    if (RedisModule_StringToLongLong(p->argv[p->at], &p->layout.timeout) == REDISMODULE_ERR || p->layout.timeout <= 0) {
        return FAIL(p, "Invalid value for TIMEOUT");
    }
    p->at++;
    return 0;
}

static int check_count(Parser *p, const char *section, int64_t known, int given) {
    if (known < 0 || known == given) return 0;
    return FAIL(p, "Number of keys given as %s here does not match model definition", section);
}

/* `INPUTS <count> <key>...`, or the same with OUTPUTS. */
static int parse_counted_keys(Parser *p, const char *section, const char *what, const char *title, int64_t known,
                              int *first, int *count) {
    long long number;
    if (!at_word(p, section)) return FAIL(p, "%s not specified", section);
    p->at++;
    if (p->at == p->argc || RedisModule_StringToLongLong(p->argv[p->at], &number) == REDISMODULE_ERR) {
        return FAIL(p, "Invalid argument for %s_count", what);
    }
    if (number <= 0) return FAIL(p, "%s count must be a positive integer", title);
    p->at++;
    if (number > p->argc - p->at) {
        return FAIL(p, "number of %s keys to AI.MODELEXECUTE command does not match the number of given arguments",
                    what);
    }
    *first = p->at;
    *count = (int)number;
    p->at += *count;
    return check_count(p, section, known, *count);
}

/* <key> INPUTS <count> <input>... OUTPUTS <count> <output>... [TIMEOUT t] */
static int parse_modelexecute(Parser *p) {
    int64_t ninputs = p->model ? model_input_count(p->model) : -1;
    int64_t noutputs = p->model ? model_output_count(p->model) : -1;
    Layout *l = &p->layout;
    if (parse_counted_keys(p, "INPUTS", "input", "Input", ninputs, &l->input, &l->ninputs) == -1 ||
        parse_counted_keys(p, "OUTPUTS", "output", "Output", noutputs, &l->output, &l->noutputs) == -1) {
        return -1;
    }
    if (at_word(p, "TIMEOUT") && parse_timeout(p) == -1) return -1;
    if (p->at < p->argc) return FAIL(p, "Invalid argument: %s", RedisModule_StringPtrLen(p->argv[p->at], NULL));
    return 0;
}

/* <key> [TIMEOUT t] INPUTS <input>... OUTPUTS <output>... */
static int parse_modelrun(Parser *p) {
    Layout *l = &p->layout;
    if (at_word(p, "TIMEOUT") && parse_timeout(p) == -1) return -1;
    if (p->at == p->argc) return FAIL(p, "Insufficient arguments, INPUTS and OUTPUTS not specified");
    if (!at_word(p, "INPUTS")) return FAIL(p, "INPUTS not specified");
    l->input = ++p->at;
    while (p->at < p->argc && !at_word(p, "OUTPUTS")) p->at++;
    l->ninputs = p->at - l->input;
    if (p->at == p->argc) return FAIL(p, "OUTPUTS not specified");
    l->output = ++p->at;
    l->noutputs = p->argc - l->output;
    if (p->model == NULL) return 0;
    if (check_count(p, "INPUTS", model_input_count(p->model), l->ninputs) == -1) return -1;
    return check_count(p, "OUTPUTS", model_output_count(p->model), l->noutputs);
}

typedef int (*ParseFunc)(Parser *p);

/* Redis asks where the keys are, to redirect in a cluster and to check ACLs: as far as the command can be parsed. */
static int report_keys(RedisModuleCtx *ctx, RedisModuleString **argv, int argc, ParseFunc parse) {
    Parser p = {.argv = argv, .argc = argc, .at = 2};
    parse(&p);
    RedisModule_KeyAtPosWithFlags(ctx, 1, REDISMODULE_CMD_KEY_RO | REDISMODULE_CMD_KEY_ACCESS);
    for (int i = 0; i < p.layout.ninputs; i++) {
        RedisModule_KeyAtPosWithFlags(ctx, p.layout.input + i, REDISMODULE_CMD_KEY_RO | REDISMODULE_CMD_KEY_ACCESS);
    }
    for (int i = 0; i < p.layout.noutputs; i++) {
        RedisModule_KeyAtPosWithFlags(ctx, p.layout.output + i, REDISMODULE_CMD_KEY_OW | REDISMODULE_CMD_KEY_UPDATE);
    }
    return REDISMODULE_OK;
}

/* Whether every output key may take a tensor; replies WRONGTYPE otherwise. */
static int outputs_accept(RedisModuleCtx *ctx, RedisModuleString **keys, int count) {
    for (int i = 0; i < count; i++) {
        if (key_accepts(ctx, keys[i], TensorType)) continue;
        RedisModule_ReplyWithError(ctx, REDISMODULE_ERRORMSG_WRONGTYPE);
        return 0;
    }
    return 1;
}

/* The reply of a run: all outputs are stored and replicated, or nothing is. */
static int reply_run(RedisModuleCtx *ctx, RedisModuleString **argv, int argc) {
    (void)argc;
    Run *run = RedisModule_GetBlockedClientPrivateData(ctx);
    if (__atomic_load_n(&run->state, __ATOMIC_ACQUIRE) == RUN_TIMEDOUT)
        return RedisModule_ReplyWithSimpleString(ctx, "TIMEDOUT");
    if (run->error) return reply_error(ctx, "%s", run->error);

    RedisModuleString **keys = argv + run->output_keys;
    if (!outputs_accept(ctx, keys, run->noutputs)) return REDISMODULE_OK;
    for (int i = 0; i < run->noutputs; i++) {
        if (run->outputs[i] == NULL) continue;
        store_value(ctx, keys[i], TensorType, tensor_ref(run->outputs[i]));
        tensor_replicate(ctx, keys[i], run->outputs[i]);
    }
    return reply_ok(ctx);
}

static int execute(RedisModuleCtx *ctx, RedisModuleString **argv, int argc, ParseFunc parse) {
    if (wait_mode(ctx) != WAIT_BLOCK) {
        return reply_error(ctx, "Cannot run RedisAI command within a transaction or a LUA script");
    }
    int replied;
    Model *model = lookup_value(ctx, argv[1], ModelType, &replied);
    if (replied) return REDISMODULE_OK;
    if (model == NULL) return reply_error(ctx, "model key is empty");

    Parser p = {.ctx = ctx, .argv = argv, .argc = argc, .at = 2, .model = model};
    if (parse(&p) == -1) return REDISMODULE_OK;
    const Layout *l = &p.layout;

    Run *run = run_new(model_ref(model), l->ninputs, l->noutputs);
    run->output_keys = l->output;
    for (int i = 0; i < l->ninputs; i++) {
        Tensor *tensor = lookup_value(ctx, argv[l->input + i], TensorType, &replied);
        if (tensor == NULL) {
            if (!replied) reply_error(ctx, "tensor key is empty or in a different shard");
            run_unref(run);
            return REDISMODULE_OK;
        }
        run->inputs[i] = tensor_ref(tensor);
    }
    if (!outputs_accept(ctx, argv + l->output, l->noutputs)) {
        run_unref(run);
        return REDISMODULE_OK;
    }
    return run_submit(ctx, run, l->timeout, reply_run);
}

static int modelexecute_command(RedisModuleCtx *ctx, RedisModuleString **argv, int argc) {
    if (RedisModule_IsKeysPositionRequest(ctx)) return report_keys(ctx, argv, argc, parse_modelexecute);
    if (argc < 3) return reply_wrong_arity(ctx, argv);
    return execute(ctx, argv, argc, parse_modelexecute);
}

static int modelrun_command(RedisModuleCtx *ctx, RedisModuleString **argv, int argc) {
    if (RedisModule_IsKeysPositionRequest(ctx)) return report_keys(ctx, argv, argc, parse_modelrun);
    if (argc < 2) return reply_wrong_arity(ctx, argv);
    return execute(ctx, argv, argc, parse_modelrun);
}

int execute_commands_register(RedisModuleCtx *ctx) {
    if (RedisModule_CreateCommand(ctx, "AI.MODELEXECUTE", modelexecute_command, "write deny-oom getkeys-api", 1, 1,
                                  1) ||
        RedisModule_CreateCommand(ctx, "AI.MODELRUN", modelrun_command, "write deny-oom getkeys-api", 1, 1, 1)) {
        return REDISMODULE_ERR;
    }
    return REDISMODULE_OK;
}
