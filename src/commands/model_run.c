/* model_run.c - AI.MODELEXECUTE and AI.MODELRUN: their grammars. Main thread only. */
#include "commands/commands.h"
#include "commands/execute.h"
#include "redis/command.h"
#include "values/model.h"

typedef Range RangeOf(const Model *model);

static int check_count(RunParser *p, const char *section, RangeOf *range_of, int64_t given) {
    Range range = p->runnable ? range_of((const Model *)p->runnable) : (Range){0, INT64_MAX};
    if (given >= range.least && given <= range.most) return 0;
    return parse_error(p->ctx, "Number of keys given as %s here does not match model definition", section);
}

/* `INPUTS count key ...`, or the same with OUTPUTS. */
static int parse_counted_keys(RunParser *p, const char *section, const char *noun, const char *title, RangeOf *range_of,
                              int *first, int *count) {
    long long number;
    if (!at_word(p, section)) return parse_error(p->ctx, "%s not specified", section);
    p->at++;
    if (p->at == p->argc || RedisModule_StringToLongLong(p->argv[p->at], &number) == REDISMODULE_ERR) {
        return parse_error(p->ctx, "Invalid argument for %s_count", noun);
    }
    /* There are models without inputs. */
    int may_be_0 = range_of == model_input_range &&
                   (p->runnable == NULL || model_input_range((const Model *)p->runnable).least == 0);
    if (number < 0 || (number == 0 && !may_be_0)) {
        return parse_error(p->ctx, "%s count must be a positive integer", title);
    }
    p->at++;
    if (check_count(p, section, range_of, number) == -1) return -1;
    if (number > p->argc - p->at) {
        return parse_error(
            p->ctx, "number of %s keys to AI.MODELEXECUTE command does not match the number of given arguments", noun);
    }
    *first = p->at;
    *count = (int)number;
    p->at += *count;
    return 0;
}

/* key INPUTS n input ... OUTPUTS n output ... [TIMEOUT t] [PRIORITY p] */
static int parse_modelexecute(RunParser *p) {
    ArgPositions *pos = &p->positions;
    if (parse_counted_keys(p, "INPUTS", "input", "Input", model_input_range, &pos->input, &pos->ninputs) == -1 ||
        parse_counted_keys(p, "OUTPUTS", "output", "Output", model_output_range, &pos->output, &pos->noutputs) == -1) {
        return -1;
    }
    if (parse_run_options(p, "No value provided for TIMEOUT") == -1) return -1;
    if (p->at < p->argc) return parse_error(p->ctx, "Invalid argument: %s", arg_text(p->argv[p->at]));
    return 0;
}

/* key [TIMEOUT t] INPUTS input ... OUTPUTS output ... */
static int parse_modelrun(RunParser *p) {
    ArgPositions *pos = &p->positions;
    if (at_word(p, "TIMEOUT") && parse_timeout(p, "No value provided for TIMEOUT", 1) == -1) return -1;
    if (!at_word(p, "INPUTS")) return parse_error(p->ctx, "INPUTS not specified");
    pos->input = ++p->at;
    while (p->at < p->argc && !at_word(p, "OUTPUTS")) p->at++;
    pos->ninputs = p->at - pos->input;
    pos->output = p->at + 1;
    pos->noutputs = p->at < p->argc ? p->argc - pos->output : 0;
    p->at = p->argc;
    if (check_count(p, "INPUTS", model_input_range, pos->ninputs) == -1) return -1;
    return check_count(p, "OUTPUTS", model_output_range, pos->noutputs);
}

COMMAND_AS(modelexecute, execute(ctx, argv, argc, &modelexecute_grammar), .name = "AI.MODELEXECUTE",
           .flags = "write deny-oom getkeys-api", .arity = -7, .since = "1.2.0",
           .keys = {{"key", KEY_READ}, {"input", KEY_READ, "INPUTS"}, {"output", KEY_WRITE, "OUTPUTS"}},
           .syntax = "key INPUTS input_count input [input ...] OUTPUTS output_count output [output ...] "
                     "[TIMEOUT milliseconds] [PRIORITY priority]",
           .summary = "Runs a model on tensors and stores its outputs", .complexity = "O(1), and running it");

const RunGrammar modelexecute_grammar = {.command = &modelexecute, .kind = KIND_MODEL, .parse = parse_modelexecute};

COMMAND_AS(modelrun, execute(ctx, argv, argc, &modelrun_grammar), .name = "AI.MODELRUN",
           .flags = "write deny-oom getkeys-api", .arity = -6,
           .keys = {{"key", KEY_READ}, {"input", KEY_READ, ANYWHERE}, {"output", KEY_WRITE, ANYWHERE}},
           .syntax = "key [TIMEOUT milliseconds] INPUTS input [input ...] OUTPUTS output [output ...]",
           .summary = "Runs a model on tensors and stores its outputs (deprecated: use AI.MODELEXECUTE)",
           .complexity = "O(1), and running it");

const RunGrammar modelrun_grammar = {.command = &modelrun, .kind = KIND_MODEL, .parse = parse_modelrun};

const Command *const model_run_commands[] = {&modelexecute, &modelrun, NULL};
