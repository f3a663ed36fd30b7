/* commands/dag.c - AI.DAGEXECUTE, AI.DAGRUN and their read-only forms: what they answer. Main thread only. */
#include "commands/dag.h"

#include "commands/commands.h"
#include "commands/execute.h"

/* The first command, as written, that failed; nsteps: none. */
static int first_failure(const Run *run) {
    for (int i = 0; i < run->nsteps; i++) {
        const Step *step = &run->steps[i];
        int state = step->op >= 0 ? op_status(&run->ops[step->op]) : OP_DONE;
        if (step->kind == STEP_RUN && state == OP_FAILED) return i;
        /* A model's output need not be a tensor (an ONNX sequence or map). */
        if (step->kind == STEP_GET && state == OP_DONE && run->slots[step->slot] == NULL) return i;
    }
    return run->nsteps;
}

static void reply_step(RedisModuleCtx *ctx, const Run *run, const Step *step) {
    const Op *op = step->op >= 0 ? &run->ops[step->op] : NULL;
    if (step->kind == STEP_RUN && op_status(op) == OP_FAILED) {
        reply_error(ctx, "%s", op->state->error);
    } else if (op && op_status(op) != OP_DONE) {
        RedisModule_ReplyWithSimpleString(ctx, "NA");
    } else if (step->kind != STEP_GET) {
        reply_ok(ctx);
    } else if (run->slots[step->slot]) {
        tensor_reply(ctx, run->slots[step->slot], step->format);
    } else {
        reply_error(ctx, NO_TENSOR);
    }
}

static int reply_dag(RedisModuleCtx *ctx, RedisModuleString **argv, const Run *run) {
    int failed = first_failure(run);
    if (failed == run->nsteps && !save_outputs(ctx, argv, run)) return REDISMODULE_OK;
    RedisModule_ReplyWithArray(ctx, run->nsteps);
    for (int i = 0; i < run->nsteps; i++) {
        const Step *step = &run->steps[i];
        if (i > failed && step->kind != STEP_RUN) {
            RedisModule_ReplyWithSimpleString(ctx, "NA");
        } else {
            reply_step(ctx, run, step);
        }
    }
    return REDISMODULE_OK;
}

static int reply_finished(RedisModuleCtx *ctx, RedisModuleString **argv, int argc) {
    (void)argc;
    const Run *run = answered_run(ctx);
    return run ? reply_dag(ctx, argv, run) : REDISMODULE_OK;
}

static int dag(RedisModuleCtx *ctx, RedisModuleString **argv, int argc, const DagCommand *command) {
    if (RedisModule_IsKeysPositionRequest(ctx)) return dag_report_keys(ctx, argv, argc, command);
    if (command->is_deprecated && argc < 4) return reply_wrong_arity(ctx, argv);
    if (argc < 6 && !command->is_deprecated)
        return reply_error(ctx, "missing arguments for '%s' command", command->name);
    if (wait_mode(ctx) != WAIT_BLOCK) return reply_error(ctx, CANNOT_BLOCK);

    long long timeout;
    Run *run = dag_parse(ctx, argv, argc, command, &timeout);
    if (run == NULL) return REDISMODULE_OK;
    if (run->nops) return run_submit(ctx, run, timeout, reply_finished);
    reply_dag(ctx, argv, run);
    run_unref(run);
    return REDISMODULE_OK;
}

static int dagexecute(RedisModuleCtx *ctx, RedisModuleString **argv, int argc);
static int dagexecute_ro(RedisModuleCtx *ctx, RedisModuleString **argv, int argc);
static int dagrun(RedisModuleCtx *ctx, RedisModuleString **argv, int argc);
static int dagrun_ro(RedisModuleCtx *ctx, RedisModuleString **argv, int argc);

static const DagCommand commands[] = {
    {"AI.DAGEXECUTE", 0, 0, dagexecute},
    {"AI.DAGEXECUTE_RO", 0, 1, dagexecute_ro},
    {"AI.DAGRUN", 1, 0, dagrun},
    {"AI.DAGRUN_RO", 1, 1, dagrun_ro},
};

static int dagexecute(RedisModuleCtx *ctx, RedisModuleString **argv, int argc) {
    return dag(ctx, argv, argc, &commands[0]);
}

static int dagexecute_ro(RedisModuleCtx *ctx, RedisModuleString **argv, int argc) {
    return dag(ctx, argv, argc, &commands[1]);
}

static int dagrun(RedisModuleCtx *ctx, RedisModuleString **argv, int argc) {
    return dag(ctx, argv, argc, &commands[2]);
}

static int dagrun_ro(RedisModuleCtx *ctx, RedisModuleString **argv, int argc) {
    return dag(ctx, argv, argc, &commands[3]);
}

int dag_commands_register(RedisModuleCtx *ctx) {
    for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
        const char *flags = commands[i].is_read_only ? "readonly getkeys-api" : "write deny-oom getkeys-api";
        /* No first key: what comes first may be LOAD, PERSIST, ROUTING or none. */
        if (RedisModule_CreateCommand(ctx, commands[i].name, commands[i].handler, flags, 0, 0, 0)) {
            return REDISMODULE_ERR;
        }
    }
    return REDISMODULE_OK;
}
