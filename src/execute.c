/* execute.c - what the commands that run something share (execute.h). Main thread only. */
#include "execute.h"

#include "runnable.h"
#include "tensor.h"

#define MOST_TIMEOUT (1LL << 40) /* ms, 35 years: Redis's timers overflow on what a client may ask for */

int at_word(const RunParser *p, const char *word) {
    return p->at < p->argc && arg_is(p->argv[p->at], word);
}

int parse_timeout(RunParser *p, const char *missing) {
    p->at++;
    if (p->at == p->argc) return FAIL(p, "%s", missing);
    if (RedisModule_StringToLongLong(p->argv[p->at], &p->layout.timeout) == REDISMODULE_ERR || p->layout.timeout <= 0) {
        return FAIL(p, "Invalid value for TIMEOUT");
    }
    if (p->layout.timeout > MOST_TIMEOUT) p->layout.timeout = MOST_TIMEOUT;
    p->at++;
    return 0;
}

/* Index in argv of input number i. */
static int input_at(const Layout *layout, int i) {
    return layout->input + i + (layout->variadic >= 0 && i >= layout->variadic);
}

int report_keys(RedisModuleCtx *ctx, RedisModuleString **argv, int argc, int at, RunParseFunc parse) {
    RunParser p = {.argv = argv, .argc = argc, .at = at, .layout.variadic = -1};
    if (argc > at) parse(&p);
    RedisModule_KeyAtPosWithFlags(ctx, 1, REDISMODULE_CMD_KEY_RO | REDISMODULE_CMD_KEY_ACCESS);
    for (int i = 0; i < p.layout.nkeys; i++) {
        /* A script may read and write them; each command in it is checked again when it comes. */
        RedisModule_KeyAtPosWithFlags(ctx, p.layout.key + i,
                                      REDISMODULE_CMD_KEY_RW | REDISMODULE_CMD_KEY_ACCESS | REDISMODULE_CMD_KEY_UPDATE);
    }
    for (int i = 0; i < p.layout.ninputs; i++) {
        RedisModule_KeyAtPosWithFlags(ctx, input_at(&p.layout, i), REDISMODULE_CMD_KEY_RO | REDISMODULE_CMD_KEY_ACCESS);
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
    if (__atomic_load_n(&run->state, __ATOMIC_ACQUIRE) == RUN_TIMEDOUT) {
        return RedisModule_ReplyWithSimpleString(ctx, "TIMEDOUT");
    }
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

/* Takes references to the input tensors; -1 after replying an error. */
static int hold_inputs(RedisModuleCtx *ctx, RedisModuleString **argv, const Layout *layout, Run *run) {
    for (int i = 0; i < layout->ninputs; i++) {
        int replied;
        Tensor *tensor = lookup_value(ctx, argv[input_at(layout, i)], TensorType, &replied);
        if (tensor == NULL) {
            if (!replied) reply_error(ctx, "tensor key is empty or in a different shard");
            return -1;
        }
        run->inputs[i] = tensor_ref(tensor);
    }
    return 0;
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

/* What only scripts have: function, KEYS, ARGS, and on whose behalf and where their Redis commands run. */
static void add_call(RedisModuleCtx *ctx, RedisModuleString **argv, const Layout *layout, Run *run) {
    run->function = arg_copy(argv[2]);
    run->variadic = layout->variadic;
    run->nkeys = layout->nkeys;
    run->keys = copy_words(argv + layout->key, layout->nkeys);
    run->nargs = layout->nargs;
    run->args = copy_words(argv + layout->arg, layout->nargs);
    run->db = RedisModule_GetSelectedDb(ctx);
    RedisModuleString *user = RedisModule_GetCurrentUserName(ctx);
    if (user == NULL) return;
    run->user = arg_copy(user);
    RedisModule_FreeString(ctx, user);
}

int execute(RedisModuleCtx *ctx, RedisModuleString **argv, int argc, int at, RedisModuleType *type, const char *empty,
            RunParseFunc parse) {
    if (wait_mode(ctx) != WAIT_BLOCK) {
        return reply_error(ctx, "Cannot run RedisAI command within a transaction or a LUA script");
    }
    int replied;
    Runnable *runnable = lookup_value(ctx, argv[1], type, &replied);
    if (replied) return REDISMODULE_OK;
    if (runnable == NULL) return reply_error(ctx, "%s", empty);

    RunParser p = {.ctx = ctx, .argv = argv, .argc = argc, .at = at, .runnable = runnable, .layout.variadic = -1};
    if (parse(&p) == -1) return REDISMODULE_OK;
    const Layout *layout = &p.layout;

    Run *run = run_new(runnable_ref(runnable), layout->ninputs, layout->noutputs);
    run->output_keys = layout->output;
    if (runnable->kind == KIND_SCRIPT) add_call(ctx, argv, layout, run);
    if (hold_inputs(ctx, argv, layout, run) == -1 || !outputs_accept(ctx, argv + layout->output, layout->noutputs)) {
        run_unref(run);
        return REDISMODULE_OK;
    }
    return run_submit(ctx, run, layout->timeout, reply_run);
}
