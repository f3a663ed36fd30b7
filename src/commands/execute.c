/* execute.c - what the commands that run something share (execute.h). Main thread only. */
#include "commands/execute.h"

#include <limits.h>

#include "commands/hash_set.h"
#include "commands/stored.h"
#include "commands/tensor.h"
#include "redis/command.h"
#include "values/model.h"

int at_word(const RunParser *p, const char *word) { return p->at < p->argc && arg_is(p->argv[p->at], word); }

int parse_timeout(RunParser *p, const char *missing, long long least) {
    p->at++;
    if (p->at == p->argc) return parse_error(p->ctx, "%s", missing);
    if (RedisModule_StringToLongLong(p->argv[p->at], &p->positions.timeout) == REDISMODULE_ERR ||
        p->positions.timeout < least) {
        return parse_error(p->ctx, "Invalid value for TIMEOUT");
    }
    if (p->positions.timeout <= 0) p->positions.timeout = -1;
    p->at++;
    return 0;
}

int parse_priority(RunParser *p) {
    p->positions.priority = ++p->at < p->argc ? priority_named(p->argv[p->at]) : 0;
    p->at++;
    return p->positions.priority ? 0 : parse_error(p->ctx, WRONG_PRIORITY);
}

int parse_run_options(RunParser *p, const char *missing_timeout) {
    for (int failed = 0; !failed;) {
        if (at_word(p, "TIMEOUT") && p->positions.timeout == 0) {
            failed = parse_timeout(p, missing_timeout, 1);
        } else if (at_word(p, "PRIORITY") && p->positions.priority == 0) {
            failed = parse_priority(p);
        } else {
            return 0;
        }
    }
    return -1;
}

int input_position(const ArgPositions *positions, int i) {
    return positions->input + i + (i >= positions->dollar) + 2 * (i >= positions->input_gap);
}

int output_position(const ArgPositions *positions, int i) {
    return positions->output + i + 2 * (i >= positions->output_gap);
}

void report_script_keys(RedisModuleCtx *ctx, const ArgPositions *positions, int offset) {
    /* A script may read and write them. Each command in it is checked again when it comes. */
    for (int i = 0; i < positions->nkeys; i++) {
        RedisModule_KeyAtPosWithFlags(ctx, offset + positions->key + i, KEY_CHANGE);
    }
}

int parse_positions(RunParser *p, const RunGrammar *grammar) {
    p->at = grammar->kind == KIND_MODEL ? 2 : 3; /* a script's function follows its key */
    p->positions = (ArgPositions){.dollar = INT_MAX, .input_gap = INT_MAX, .output_gap = INT_MAX};
    if (p->argc < p->at || grammar->parse(p) == -1) return -1;
    const char *of_all = p->positions.timeout ? "TIMEOUT" : p->positions.priority ? "PRIORITY" : NULL;
    return p->in_dag && of_all ? parse_error(p->ctx, "%s not allowed within a DAG command", of_all) : 0;
}

static int report_keys(RedisModuleCtx *ctx, RedisModuleString **argv, int argc, const RunGrammar *grammar) {
    RunParser p = {.argv = argv, .argc = argc};
    parse_positions(&p, grammar);
    RedisModule_KeyAtPosWithFlags(ctx, 1, KEY_READ);
    report_script_keys(ctx, &p.positions, 0);
    for (int i = 0; i < p.positions.ninputs; i++) {
        RedisModule_KeyAtPosWithFlags(ctx, input_position(&p.positions, i), KEY_READ);
    }
    for (int i = 0; i < p.positions.noutputs; i++) {
        RedisModule_KeyAtPosWithFlags(ctx, output_position(&p.positions, i), KEY_WRITE);
    }
    return REDISMODULE_OK;
}

int parse_execution(RunParser *p, const RunGrammar *grammar) {
    if (p->argc < -grammar->command->arity) return parse_error(p->ctx, WRONG_ARITY, arg_text(p->argv[0]));
    p->runnable = find_runnable(p->ctx, p->argv[1], grammar->kind);
    return p->runnable ? parse_positions(p, grammar) : -1;
}

void save_outputs(RedisModuleCtx *ctx, Run *run) {
    const Save *end = run->saves + run->nsaves;
    for (Save *save = run->saves; save < end; save++) {
        const char *refusal = key_refusal(ctx, save->key, save->field ? KEY_OF_HASH : TensorType);
        if (refusal) run->refusal = RedisModule_Strdup(refusal);
        if (!refusal && save->field) {
            save->value = hash_value(run->slots[save->slot], save->form, save->field, &run->refusal);
        }
        if (run->refusal) return;
    }
    for (const Save *save = run->saves; save < end; save++) {
        Tensor *tensor = run->slots[save->slot];
        if (save->field) {
            hash_set_field(ctx, save->key, save->field, save->value);
            continue;
        }
        key_set_value(ctx, save->key, TensorType, tensor_ref(tensor));
        tensor_replicate(ctx, save->key, tensor);
        key_notify(ctx, save->key, TENSOR_EVENT);
    }
}

const Run *answered_run(RedisModuleCtx *ctx) {
    const Run *run = RedisModule_GetBlockedClientPrivateData(ctx);
    int32_t state = __atomic_load_n(&run->state, __ATOMIC_ACQUIRE);
    if (state == RUN_TIMEDOUT) {
        RedisModule_ReplyWithSimpleString(ctx, "TIMEDOUT");
    } else if (state == RUN_KILLED) {
        char name[RUNNABLE_NAME] = "";
        if (run->steps == NULL) runnable_key(run->ops[0].runnable, name);
        reply_error(ctx, "the %s%s%s was ended by AI.KILL RUN %llu", run->steps ? "DAG" : "run of '", name,
                    run->steps ? "" : "'", (unsigned long long)run->id);
    } else {
        return run;
    }
    return NULL;
}

static int reply_run(RedisModuleCtx *ctx, RedisModuleString **argv, int argc) {
    const Run *run = answered_run(ctx);
    if (run == NULL) return REDISMODULE_OK;
    if (run->ops[0].state->error) return reply_error(ctx, "%s", run->ops[0].state->error);
    return run->refusal ? RedisModule_ReplyWithError(ctx, run->refusal) : reply_ok(ctx);
}

static void save_run(RedisModuleCtx *ctx, Waiter *run) { save_outputs(ctx, (Run *)run); }

/* Copies: the arguments are the client's, which may be gone while the script runs. */
static Bytes *copy_words(RedisModuleString **argv, int count) {
    Bytes *words = count ? RedisModule_Alloc(count * sizeof(*words)) : NULL;
    for (int i = 0; i < count; i++) words[i].data = arg_copy(argv[i], &words[i].size);
    return words;
}

/* The user of the run's Redis commands. */
static void set_user(RedisModuleCtx *ctx, Run *run) {
    RedisModuleString *user = RedisModule_GetCurrentUserName(ctx);
    if (user == NULL) return;
    run->user = arg_copy(user, NULL);
    RedisModule_FreeString(ctx, user);
}

void add_op(Run *run, const RunParser *p, const int *inputs, int first_output) {
    const ArgPositions *pos = &p->positions;
    Op *op = run_add_op(run, runnable_ref(p->runnable), inputs, pos->ninputs, first_output, pos->noutputs);
    int64_t own = p->runnable->kind == KIND_MODEL ? ((const Model *)p->runnable)->limits.priority : 0;
    if (own || pos->priority) op->priority = pos->priority ? pos->priority : (int)own;
    run_use_cache(run, op);
    if (p->runnable->kind == KIND_MODEL) return;
    op->function = arg_copy(p->argv[2], NULL);
    op->nkeys = pos->nkeys;
    op->keys = copy_words(p->argv + pos->key, pos->nkeys);
    op->nargs = pos->nargs;
    op->args = copy_words(p->argv + pos->arg, pos->nargs);
    if (run->user == NULL) set_user(p->ctx, run);
}

/* A run of one op: slots are its inputs, then its outputs. NULL after replying an error. */
static Run *new_run(RedisModuleCtx *ctx, RedisModuleString **argv, const ArgPositions *positions) {
    int ninputs = positions->ninputs, noutputs = positions->noutputs;
    Run *run = run_new(1, ninputs + noutputs, ninputs, noutputs);
    for (int i = 0; i < ninputs; i++) {
        Tensor *tensor = lookup_value(ctx, argv[input_position(positions, i)], TensorType, NO_TENSOR);
        if (tensor == NULL) {
            run_unref(run);
            return NULL;
        }
        run->slots[i] = tensor_ref(tensor);
    }
    for (int i = 0; i < noutputs; i++) {
        RedisModuleString *output = argv[output_position(positions, i)];
        if (!key_accepts(ctx, output, TensorType)) {
            run_unref(run);
            return NULL;
        }
        run_add_save(run, output, NULL, 0, ninputs + i);
    }
    return run;
}

int execute(RedisModuleCtx *ctx, RedisModuleString **argv, int argc, const RunGrammar *grammar) {
    if (RedisModule_IsKeysPositionRequest(ctx)) return report_keys(ctx, argv, argc, grammar);
    if (wait_mode(ctx) != WAIT_BLOCK) return reply_error(ctx, CANNOT_BLOCK);

    RunParser p = {.ctx = ctx, .argv = argv, .argc = argc};
    if (parse_execution(&p, grammar) == -1) return REDISMODULE_OK;
    Run *run = new_run(ctx, argv, &p.positions);
    if (run == NULL) return REDISMODULE_OK;
    add_op(run, &p, NULL, p.positions.ninputs);
    static const RunEnd end = {.save = save_run, .reply = reply_run};
    long long timeout = p.positions.timeout;
    if (timeout == 0 && grammar->kind == KIND_MODEL) timeout = ((const Model *)p.runnable)->limits.timeout;
    return run_submit(ctx, run, timeout, &end);
}
