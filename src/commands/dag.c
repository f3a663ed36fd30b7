/* dag.c - AI.DAGEXECUTE, AI.DAGRUN and their read-only forms: what they answer. Main thread only. */
#include "commands/dag.h"

#include "commands/commands.h"
#include "commands/execute.h"
#include "redis/command.h"

/* The first command that failed, in the order of the client's words; nsteps: none. */
static int first_failure(const Run *run) {
    for (int i = 0; i < run->nsteps; i++) {
        const Step *step = &run->steps[i];
        int state = step->op >= 0 ? op_status(&run->ops[step->op]) : OP_DONE;
        if (step->kind == STEP_RUN && state == OP_FAILED) return i;
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
    } else {
        tensor_reply(ctx, run->slots[step->slot], step->format);
    }
}

static void save_dag(RedisModuleCtx *ctx, Waiter *waiter) {
    Run *run = (Run *)waiter;
    if (first_failure(run) == run->nsteps) save_outputs(ctx, run);
}

static int reply_dag(RedisModuleCtx *ctx, const Run *run) {
    int failed = first_failure(run);
    if (run->refusal) return RedisModule_ReplyWithError(ctx, run->refusal);
    RedisModule_ReplyWithArray(ctx, run->nsteps);
    for (int i = 0; i < run->nsteps; i++) {
        const Step *step = &run->steps[i];
        int sets_hash = step->kind == STEP_HASH && failed < run->nsteps; /* at the end, so a later failure counts */
        if (sets_hash || (i > failed && step->kind != STEP_RUN)) {
            RedisModule_ReplyWithSimpleString(ctx, "NA");
        } else {
            reply_step(ctx, run, step);
        }
    }
    return REDISMODULE_OK;
}

static int reply_finished(RedisModuleCtx *ctx, RedisModuleString **argv, int argc) {
    const Run *run = answered_run(ctx);
    return run ? reply_dag(ctx, run) : REDISMODULE_OK;
}

static int dag(RedisModuleCtx *ctx, RedisModuleString **argv, int argc, const DagGrammar *grammar) {
    if (RedisModule_IsKeysPositionRequest(ctx)) return dag_report_keys(ctx, argv, argc, grammar);
    if (argc < 6 && !grammar->is_deprecated) {
        return reply_error(ctx, "missing arguments for '%s' command", grammar->command);
    }
    if (wait_mode(ctx) != WAIT_BLOCK) return reply_error(ctx, CANNOT_BLOCK);

    long long timeout;
    Run *run = dag_parse(ctx, argv, argc, grammar, &timeout);
    if (run == NULL) return REDISMODULE_OK;
    static const RunEnd end = {.save = save_dag, .reply = reply_finished};
    if (run->nops) return run_submit(ctx, run, timeout, &end);
    save_dag(ctx, &run->waiter);
    reply_dag(ctx, run);
    run_unref(run);
    return REDISMODULE_OK;
}

/* No key has a fixed place: the first word may be LOAD, PERSIST, ROUTING or none. AI.DAGEXECUTE has a text of its own
 * for too few words, so it announces no arity. */

COMMAND_AS(dagexecute, dag(ctx, argv, argc, &(DagGrammar){.command = "AI.DAGEXECUTE"}), .name = "AI.DAGEXECUTE",
           .flags = "write deny-oom getkeys-api", .arity = -1, .since = "1.2.0",
           .keys = {{"load", KEY_READ, "LOAD"}, {"persist", KEY_WRITE, "PERSIST"}, {NULL, KEY_READ, ANYWHERE}},
           .syntax = "[LOAD load_count load [load ...]] [PERSIST persist_count persist [persist ...]] "
                     "[ROUTING routing] [TIMEOUT milliseconds] [PRIORITY priority] |> command [|> command ...]",
           .summary = "Runs a graph of models and scripts on local tensors", .tips = "nondeterministic_output",
           .complexity = "O(1), and running it");

COMMAND_AS(dagexecute_ro, dag(ctx, argv, argc, &(DagGrammar){.command = "AI.DAGEXECUTE_RO", .is_read_only = 1}),
           .name = "AI.DAGEXECUTE_RO", .flags = "readonly getkeys-api", .arity = -1, .since = "1.2.0",
           .keys = {{"load", KEY_READ, "LOAD"}, {NULL, KEY_READ, ANYWHERE}},
           .syntax = "[LOAD load_count load [load ...]] [ROUTING routing] [TIMEOUT milliseconds] [PRIORITY priority] "
                     "|> command [|> command ...]",
           .summary = "Runs a graph of models, also on a read-only replica", .tips = "nondeterministic_output",
           .complexity = "O(1), and running it");

COMMAND_AS(dagrun, dag(ctx, argv, argc, &(DagGrammar){.command = "AI.DAGRUN", .is_deprecated = 1}), .name = "AI.DAGRUN",
           .flags = "write deny-oom getkeys-api", .arity = -4,
           .keys = {{"load", KEY_READ, "LOAD"}, {"persist", KEY_WRITE, "PERSIST"}, {NULL, KEY_READ, ANYWHERE}},
           .syntax = "[LOAD load_count load [load ...]] [PERSIST persist_count persist [persist ...]] "
                     "[ROUTING routing] [TIMEOUT milliseconds] |> command [|> command ...]",
           .summary = "Runs a graph of models and scripts (deprecated: use AI.DAGEXECUTE)",
           .tips = "nondeterministic_output", .complexity = "O(1), and running it");

COMMAND_AS(dagrun_ro,
           dag(ctx, argv, argc, &(DagGrammar){.command = "AI.DAGRUN_RO", .is_deprecated = 1, .is_read_only = 1}),
           .name = "AI.DAGRUN_RO", .flags = "readonly getkeys-api", .arity = -4,
           .keys = {{"load", KEY_READ, "LOAD"}, {NULL, KEY_READ, ANYWHERE}},
           .syntax = "[LOAD load_count load [load ...]] [ROUTING routing] [TIMEOUT milliseconds] |> command [|> "
                     "command ...]",
           .summary = "Runs a graph of models and scripts (deprecated: use AI.DAGEXECUTE_RO)",
           .tips = "nondeterministic_output", .complexity = "O(1), and running it");

const Command *const dag_commands[] = {&dagexecute, &dagexecute_ro, &dagrun, &dagrun_ro, NULL};
