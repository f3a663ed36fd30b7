/* script_run.c - AI.SCRIPTEXECUTE and AI.SCRIPTRUN: their grammars. Main thread only. */
#include "commands/commands.h"
#include "commands/execute.h"
#include "redis/command.h"
#include "values/script.h"

#define NO_TIMEOUT_VALUE "No value provided for TIMEOUT in AI.SCRIPTEXECUTE"

/* A section of AI.SCRIPTEXECUTE. The wrong name in ARGS's error is what clients know. */
typedef struct Section {
    const char *word, *counted, *bad_count;
} Section;

static const Section sections[] = {{"KEYS", "keys", "keys"},
                                   {"INPUTS", "inputs", "inputs"},
                                   {"ARGS", "args", "keys"},
                                   {"OUTPUTS", "outputs", "outputs"}};
#define KEYS 0
#define INPUTS 1
#define ARGS 2
#define OUTPUTS 3
#define SECTIONS 4

static int parse_section(RunParser *p, int which, int *first, int *count) {
    const Section *section = &sections[which];
    long long number;
    if (*first) return parse_error(p->ctx, "Already Encountered %s scope in AI.SCRIPTEXECUTE command", section->word);
    p->at++;
    if (p->at == p->argc) {
        if (which == KEYS) return parse_error(p->ctx, "Missing arguments after KEYS keyword");
        return parse_error(p->ctx, "Invalid arguments provided to AI.SCRIPTEXECUTE");
    }
    if (RedisModule_StringToLongLong(p->argv[p->at], &number) == REDISMODULE_ERR || number < 0) {
        return parse_error(p->ctx, "Invalid argument for %s count in AI.SCRIPTEXECUTE", section->bad_count);
    }
    p->at++;
    if (number > p->argc - p->at) {
        return parse_error(p->ctx,
                           "number of %s to AI.SCRIPTEXECUTE command does not match the number of given arguments",
                           section->counted);
    }
    *first = p->at;
    *count = (int)number;
    p->at += *count;
    return 0;
}

/* <key> <function> [KEYS n ...] [INPUTS n ...] [ARGS n ...] [OUTPUTS n ...] [TIMEOUT t] */
static int parse_scriptexecute(RunParser *p) {
    ArgPositions *pos = &p->positions;
    int *firsts[SECTIONS] = {&pos->key, &pos->input, &pos->arg, &pos->output};
    int *counts[SECTIONS] = {&pos->nkeys, &pos->ninputs, &pos->nargs, &pos->noutputs};

    if (!at_word(p, "KEYS") && !at_word(p, "INPUTS")) {
        return parse_error(p->ctx, "KEYS or INPUTS scope must be provided first for AI.SCRIPTEXECUTE command");
    }
    while (p->at < p->argc) {
        if (at_word(p, "TIMEOUT")) {
            if (parse_timeout(p, NO_TIMEOUT_VALUE) == -1) return -1;
            if (p->at < p->argc) return parse_error(p->ctx, "Encountered problem parsing AI.SCRIPTEXECUTE");
            return 0;
        }
        int which = 0;
        while (which < SECTIONS && !at_word(p, sections[which].word)) which++;
        if (which == SECTIONS) {
            return parse_error(p->ctx, "Invalid AI.SCRIPTEXECUTE command. Unexpected argument: %s",
                               arg_text(p->argv[p->at]));
        }
        if (parse_section(p, which, firsts[which], counts[which]) == -1) return -1;
    }
    return 0;
}

/* INPUTS <input>... [$ <input>...]: up to OUTPUTS, TIMEOUT or the end. */
static int parse_listed_inputs(RunParser *p) {
    ArgPositions *pos = &p->positions;
    if (pos->input) return parse_error(p->ctx, "Already encountered an INPUTS section in SCRIPTRUN");
    pos->input = ++p->at;
    for (; p->at < p->argc && !at_word(p, "OUTPUTS") && !at_word(p, "TIMEOUT"); p->at++) {
        if (at_word(p, "INPUTS")) return parse_error(p->ctx, "Already encountered an INPUTS section in SCRIPTRUN");
        if (!at_word(p, "$")) {
            pos->ninputs++;
        } else if (pos->variadic >= 0) {
            return parse_error(p->ctx, "Already encountered a variable size list of tensors");
        } else {
            pos->variadic = pos->ninputs;
        }
    }
    return 0;
}

static int parse_listed_outputs(RunParser *p) {
    ArgPositions *pos = &p->positions;
    if (pos->output) return parse_error(p->ctx, "Already encountered an OUTPUTS keyword in SCRIPTRUN");
    pos->output = ++p->at;
    for (; p->at < p->argc && !at_word(p, "INPUTS") && !at_word(p, "TIMEOUT"); p->at++) {
        if (at_word(p, "OUTPUTS")) return parse_error(p->ctx, "Already encountered an OUTPUTS keyword in SCRIPTRUN");
        if (at_word(p, "$"))
            return parse_error(p->ctx, "Encountered a variable size list of tensors outside of input section");
        pos->noutputs++;
    }
    return 0;
}

/* <key> <function> [TIMEOUT t] INPUTS <input>... [$ <input>...] OUTPUTS <output>... */
static int parse_scriptrun(RunParser *p) {
    ArgPositions *pos = &p->positions;
    if (arg_is(p->argv[2], "INPUTS") || arg_is(p->argv[2], "OUTPUTS") || arg_is(p->argv[2], "TIMEOUT")) {
        return parse_error(p->ctx, "function name not specified");
    }
    while (p->at < p->argc) {
        int failed;
        if (at_word(p, "TIMEOUT")) {
            if (pos->timeout) return parse_error(p->ctx, "Already encountered an TIMEOUT section in SCRIPTRUN");
            failed = parse_timeout(p, "No value provided for TIMEOUT");
        } else if (at_word(p, "INPUTS")) {
            failed = parse_listed_inputs(p);
        } else if (at_word(p, "OUTPUTS")) {
            failed = parse_listed_outputs(p);
        } else if (at_word(p, "$")) {
            return parse_error(p->ctx, "Encountered a variable size list of tensors outside of input section");
        } else {
            return parse_error(p->ctx, "Unrecongnized parameter to SCRIPTRUN");
        }
        if (failed) return -1;
    }
    if (pos->input == 0) return parse_error(p->ctx, "INPUTS not specified");
    return 0;
}

static int scriptexecute_command(RedisModuleCtx *ctx, RedisModuleString **argv, int argc) {
    return execute(ctx, argv, argc, &scriptexecute_grammar);
}

COMMAND(scriptexecute, .name = "AI.SCRIPTEXECUTE", .flags = "write deny-oom getkeys-api", .arity = -3,
        .keys = {{"key", KEY_READ},
                 {"key", KEY_CHANGE, "KEYS"},
                 {"input", KEY_READ, "INPUTS"},
                 {"output", KEY_WRITE, "OUTPUTS"}},
        .syntax = "key function [KEYS key_count key [key ...]] [INPUTS input_count input [input ...]] [ARGS arg_count "
                  "arg [arg ...]] [OUTPUTS output_count output [output ...]] [TIMEOUT milliseconds]",
        .summary = "Runs a script's function on tensors, keys and arguments and stores its outputs",
        .complexity = "O(1), and running it", .since = "1.2.0");

const RunGrammar scriptexecute_grammar = {.command = &scriptexecute, .kind = KIND_SCRIPT, .parse = parse_scriptexecute};

static int scriptrun_command(RedisModuleCtx *ctx, RedisModuleString **argv, int argc) {
    return execute(ctx, argv, argc, &scriptrun_grammar);
}

COMMAND(scriptrun, .name = "AI.SCRIPTRUN", .flags = "write deny-oom getkeys-api", .arity = -3,
        .keys = {{"key", KEY_READ}, {"input", KEY_READ, ANYWHERE}, {"output", KEY_WRITE, ANYWHERE}},
        .syntax = "key function [TIMEOUT milliseconds] INPUTS input [input ...] OUTPUTS output [output ...]",
        .summary = "Runs a script's function on tensors (deprecated: use AI.SCRIPTEXECUTE)",
        .complexity = "O(1), and running it", .since = "1.0.0");

const RunGrammar scriptrun_grammar = {.command = &scriptrun, .kind = KIND_SCRIPT, .parse = parse_scriptrun};

const Command *const script_run_commands[] = {&scriptexecute, &scriptrun, NULL};
