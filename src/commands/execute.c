/* commands/execute.c - what the commands that run something share (commands/execute.h). Main thread only. */
#include "commands/execute.h"

#include "commands/tensor.h"
#include "values/runnable.h"

#define MAX_TIMEOUT (1LL << 40) /* ms, 35 years: Redis's timers overflow on what a client may ask for */

int at_word(const RunParser *p, const char *word) {
    return p->at < p->argc && arg_is(p->argv[p->at], word);
}

int parse_timeout(RunParser *p, const char *missing) {
    if (p->in_dag) return FAIL(p, "TIMEOUT not allowed within a DAG command");
    p->at++;
    if (p->at == p->argc) return FAIL(p, "%s", missing);
    if (RedisModule_StringToLongLong(p->argv[p->at], &p->layout.timeout) == REDISMODULE_ERR || p->layout.timeout <= 0) {
        return FAIL(p, "Invalid value for TIMEOUT");
    }
    if (p->layout.timeout > MAX_TIMEOUT) p->layout.timeout = MAX_TIMEOUT;
    p->at++;
    return 0;
}

int input_at(const Layout *layout, int i) {
    return layout->input + i + (layout->variadic >= 0 && i >= layout->variadic);
}

void report_script_keys(RedisModuleCtx *ctx, const Layout *layout, int offset) {
    for (int i = 0; i < layout->nkeys; i++) {
        /* A script may read and write them; each command in it is checked again when it comes. */
        RedisModule_KeyAtPosWithFlags(ctx, offset + layout->key + i,
                                      REDISMODULE_CMD_KEY_RW | REDISMODULE_CMD_KEY_ACCESS | REDISMODULE_CMD_KEY_UPDATE);
    }
}

int report_keys(RedisModuleCtx *ctx, RedisModuleString **argv, int argc, const Executable *what) {
    RunParser p = {.argv = argv, .argc = argc, .at = what->at, .layout.variadic = -1};
    if (argc > what->at) what->parse(&p);
    RedisModule_KeyAtPosWithFlags(ctx, 1, REDISMODULE_CMD_KEY_RO | REDISMODULE_CMD_KEY_ACCESS);
    report_script_keys(ctx, &p.layout, 0);
    for (int i = 0; i < p.layout.ninputs; i++) {
        RedisModule_KeyAtPosWithFlags(ctx, input_at(&p.layout, i), REDISMODULE_CMD_KEY_RO | REDISMODULE_CMD_KEY_ACCESS);
    }
    for (int i = 0; i < p.layout.noutputs; i++) {
        RedisModule_KeyAtPosWithFlags(ctx, p.layout.output + i, REDISMODULE_CMD_KEY_OW | REDISMODULE_CMD_KEY_UPDATE);
    }
    return REDISMODULE_OK;
}

int parse_execution(RunParser *p, const Executable *what) {
    int replied;
    if (p->argc < what->least) return reply_wrong_arity(p->ctx, p->argv), -1;
    p->runnable = lookup_value(p->ctx, p->argv[1], *what->type, &replied);
    if (replied) return -1;
    if (p->runnable == NULL) return FAIL(p, "%s", what->empty);
    p->at = what->at;
    p->layout = (Layout){.variadic = -1};
    return what->parse(p);
}

Tensor *hold_tensor(RedisModuleCtx *ctx, RedisModuleString *key) {
    int replied;
    Tensor *tensor = lookup_value(ctx, key, TensorType, &replied);
    if (tensor) return tensor_ref(tensor);
    if (!replied) reply_error(ctx, NO_TENSOR);
    return NULL;
}

int accepts_tensor(RedisModuleCtx *ctx, RedisModuleString *key) {
    if (key_accepts(ctx, key, TensorType)) return 1;
    reply_wrong_type(ctx);
    return 0;
}

int save_outputs(RedisModuleCtx *ctx, RedisModuleString **argv, const Run *run) {
    for (int i = 0; i < run->nsaves; i++) {
        RedisModuleString *key = argv[run->saves[i].key];
        if (!key_is_here(ctx, key) || !accepts_tensor(ctx, key)) return 0;
    }
    for (int i = 0; i < run->nsaves; i++) {
        RedisModuleString *key = argv[run->saves[i].key];
        Tensor *tensor = run->slots[run->saves[i].slot];
        if (tensor == NULL) continue;
        store_value(ctx, key, TensorType, tensor_ref(tensor));
        tensor_replicate(ctx, key, tensor);
    }
    return 1;
}

const Run *answered_run(RedisModuleCtx *ctx) {
    const Run *run = RedisModule_GetBlockedClientPrivateData(ctx);
    if (__atomic_load_n(&run->state, __ATOMIC_ACQUIRE) != RUN_TIMEDOUT) return run;
    RedisModule_ReplyWithSimpleString(ctx, "TIMEDOUT");
    return NULL;
}

static int reply_run(RedisModuleCtx *ctx, RedisModuleString **argv, int argc) {
    (void)argc;
    const Run *run = answered_run(ctx);
    if (run == NULL) return REDISMODULE_OK;
    if (run->ops[0].state->error) return reply_error(ctx, "%s", run->ops[0].state->error);
    return save_outputs(ctx, argv, run) ? reply_ok(ctx) : REDISMODULE_OK;
}

/* Copies, for the arguments are the client's, who may be gone while the script runs. */
static Bytes *copy_words(RedisModuleString **argv, int count) {
    Bytes *words = count ? RedisModule_Alloc(count * sizeof(*words)) : NULL;
    for (int i = 0; i < count; i++) {
        size_t size;
        RedisModule_StringPtrLen(argv[i], &size);
        words[i] = (Bytes){.data = arg_copy(argv[i]), .size = size};
    }
    return words;
}

void add_call(RedisModuleString **argv, const Layout *layout, Op *op) {
    op->function = arg_copy(argv[2]);
    op->variadic = layout->variadic;
    op->nkeys = layout->nkeys;
    op->keys = copy_words(argv + layout->key, layout->nkeys);
    op->nargs = layout->nargs;
    op->args = copy_words(argv + layout->arg, layout->nargs);
}

void add_caller(RedisModuleCtx *ctx, Run *run) {
    run->db = RedisModule_GetSelectedDb(ctx);
    RedisModuleString *user = RedisModule_GetCurrentUserName(ctx);
    if (user == NULL) return;
    run->user = arg_copy(user);
    RedisModule_FreeString(ctx, user);
}

/* A run of one op: slots are its inputs, then its outputs. NULL after replying an error. */
static Run *new_run(RedisModuleCtx *ctx, RedisModuleString **argv, const Layout *layout) {
    int ninputs = layout->ninputs, noutputs = layout->noutputs;
    Run *run = run_new(1, ninputs + noutputs, ninputs, noutputs);
    for (int i = 0; i < ninputs; i++) {
        Tensor *tensor = hold_tensor(ctx, argv[input_at(layout, i)]);
        if (tensor == NULL) {
            run_unref(run);
            return NULL;
        }
        run_set_slot(run, i, tensor);
    }
    for (int i = 0; i < noutputs; i++) {
        if (!accepts_tensor(ctx, argv[layout->output + i])) {
            run_unref(run);
            return NULL;
        }
        run->saves[run->nsaves++] = (Save){.key = layout->output + i, .slot = ninputs + i};
    }
    return run;
}

int execute(RedisModuleCtx *ctx, RedisModuleString **argv, int argc, const Executable *what) {
    if (RedisModule_IsKeysPositionRequest(ctx)) return report_keys(ctx, argv, argc, what);
    if (argc < what->least) return reply_wrong_arity(ctx, argv);
    if (wait_mode(ctx) != WAIT_BLOCK) return reply_error(ctx, CANNOT_BLOCK);

    RunParser p = {.ctx = ctx, .argv = argv, .argc = argc};
    if (parse_execution(&p, what) == -1) return REDISMODULE_OK;
    Run *run = new_run(ctx, argv, &p.layout);
    if (run == NULL) return REDISMODULE_OK;
    Op *op = run_add_op(run, runnable_ref(p.runnable), NULL, p.layout.ninputs, p.layout.ninputs, p.layout.noutputs);
    if (p.runnable->kind == KIND_SCRIPT) {
        add_call(argv, &p.layout, op);
        add_caller(ctx, run);
    }
    return run_submit(ctx, run, p.layout.timeout, reply_run);
}
