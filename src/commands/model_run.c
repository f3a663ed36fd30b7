/* commands/model_run.c - AI.MODELEXECUTE and AI.MODELRUN: their grammars. Main thread only. */
#include "commands/commands.h"
#include "commands/execute.h"
#include "values/model.h"

static int check_count(RunParser *p, const char *section, int64_t known, int given) {
    if (known < 0 || known == given) return 0;
    return FAIL(p, "Number of keys given as %s here does not match model definition", section);
}

static int64_t known_inputs(const RunParser *p) {
    return p->runnable ? model_input_count((const Model *)p->runnable) : -1;
}

static int64_t known_outputs(const RunParser *p) {
    return p->runnable ? model_output_count((const Model *)p->runnable) : -1;
}

/* `INPUTS <count> <key>...`, or the same with OUTPUTS. */
static int parse_counted_keys(RunParser *p, const char *section, const char *what, const char *title, int64_t known,
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
static int parse_modelexecute(RunParser *p) {
    Layout *l = &p->layout;
    if (parse_counted_keys(p, "INPUTS", "input", "Input", known_inputs(p), &l->input, &l->ninputs) == -1 ||
        parse_counted_keys(p, "OUTPUTS", "output", "Output", known_outputs(p), &l->output, &l->noutputs) == -1) {
        return -1;
    }
    if (at_word(p, "TIMEOUT") && parse_timeout(p, "No value provided for TIMEOUT") == -1) return -1;
    if (p->at < p->argc) return FAIL(p, "Invalid argument: %s", RedisModule_StringPtrLen(p->argv[p->at], NULL));
    return 0;
}

/* <key> [TIMEOUT t] INPUTS <input>... OUTPUTS <output>... */
static int parse_modelrun(RunParser *p) {
    Layout *l = &p->layout;
    if (at_word(p, "TIMEOUT") && parse_timeout(p, "No value provided for TIMEOUT") == -1) return -1;
    if (p->at == p->argc) return FAIL(p, "Insufficient arguments, INPUTS and OUTPUTS not specified");
    if (!at_word(p, "INPUTS")) return FAIL(p, "INPUTS not specified");
    l->input = ++p->at;
    while (p->at < p->argc && !at_word(p, "OUTPUTS")) p->at++;
    l->ninputs = p->at - l->input;
    if (p->at == p->argc) return FAIL(p, "OUTPUTS not specified");
    l->output = ++p->at;
    l->noutputs = p->argc - l->output;
    if (check_count(p, "INPUTS", known_inputs(p), l->ninputs) == -1) return -1;
    return check_count(p, "OUTPUTS", known_outputs(p), l->noutputs);
}

const Executable modelexecute = {"AI.MODELEXECUTE", parse_modelexecute, 2, 3, &ModelType, "model key is empty"};
const Executable modelrun = {"AI.MODELRUN", parse_modelrun, 2, 2, &ModelType, "model key is empty"};

static int modelexecute_command(RedisModuleCtx *ctx, RedisModuleString **argv, int argc) {
    return execute(ctx, argv, argc, &modelexecute);
}

static int modelrun_command(RedisModuleCtx *ctx, RedisModuleString **argv, int argc) {
    return execute(ctx, argv, argc, &modelrun);
}

int model_run_commands_register(RedisModuleCtx *ctx) {
    const char *flags = "write deny-oom getkeys-api";
    if (RedisModule_CreateCommand(ctx, modelexecute.command, modelexecute_command, flags, 1, 1, 1) ||
        RedisModule_CreateCommand(ctx, modelrun.command, modelrun_command, flags, 1, 1, 1)) {
        return REDISMODULE_ERR;
    }
    return REDISMODULE_OK;
}
