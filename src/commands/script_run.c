/* script_run.c - AI.SCRIPTEXECUTE and AI.SCRIPTRUN: their grammars. Main thread only. */
#include <string.h>

#include "commands/commands.h"
#include "commands/execute.h"
#include "redis/command.h"
#include "values/script.h"

/* A section of AI.SCRIPTEXECUTE. The wrong noun in the error for ARGS's count is what clients know. */
typedef struct Section {
    const char *word, *noun, *noun_of_count;
    int *first, *count;
} Section;

static int parse_section(RunParser *p, const Section *section) {
    long long number;
    if (*section->first) {
        return parse_error(p->ctx, "Already Encountered %s scope in AI.SCRIPTEXECUTE command", section->word);
    }
    if (++p->at == p->argc) {
        int is_keys = strcmp(section->word, "KEYS") == 0;
        return parse_error(p->ctx, is_keys ? "Missing arguments after KEYS keyword"
                                           : "Invalid arguments provided to AI.SCRIPTEXECUTE");
    }
    if (RedisModule_StringToLongLong(p->argv[p->at++], &number) == REDISMODULE_ERR || number < 0) {
        return parse_error(p->ctx, "Invalid argument for %s count in AI.SCRIPTEXECUTE", section->noun_of_count);
    }
    if (number > p->argc - p->at) {
        return parse_error(p->ctx,
                           "number of %s to AI.SCRIPTEXECUTE command does not match the number of given arguments",
                           section->noun);
    }
    *section->first = p->at;
    *section->count = (int)number;
    p->at += *section->count;
    return 0;
}

/* key function [KEYS n ...] [INPUTS n ...] [ARGS n ...] [OUTPUTS n ...] [TIMEOUT t] */
static int parse_scriptexecute(RunParser *p) {
    ArgPositions *pos = &p->positions;
    const Section sections[] = {{"KEYS", "keys", "keys", &pos->key, &pos->nkeys},
                                {"INPUTS", "inputs", "inputs", &pos->input, &pos->ninputs},
                                {"ARGS", "args", "keys", &pos->arg, &pos->nargs},
                                {"OUTPUTS", "outputs", "outputs", &pos->output, &pos->noutputs},
                                {NULL}};
    if (!at_word(p, "KEYS") && !at_word(p, "INPUTS")) {
        return parse_error(p->ctx, "KEYS or INPUTS scope must be provided first for AI.SCRIPTEXECUTE command");
    }
    while (p->at < p->argc && !at_word(p, "TIMEOUT")) {
        const Section *section = sections;
        while (section->word && !at_word(p, section->word)) section++;
        if (section->word == NULL) {
            return parse_error(p->ctx, "Invalid AI.SCRIPTEXECUTE command. Unexpected argument: %s",
                               arg_text(p->argv[p->at]));
        }
        if (parse_section(p, section) == -1) return -1;
    }
    if (p->at == p->argc) return 0;
    if (parse_timeout(p, "No value provided for TIMEOUT in AI.SCRIPTEXECUTE") == -1) return -1;
    return p->at == p->argc ? 0 : parse_error(p->ctx, "Encountered problem parsing AI.SCRIPTEXECUTE");
}

#define MISPLACED_LIST "Encountered a variable size list of tensors outside of input section"

/* Whether the word begins a section of AI.SCRIPTRUN, and so ends the section before it. */
static int is_section(const RedisModuleString *word) {
    return arg_is(word, "INPUTS") || arg_is(word, "OUTPUTS") || arg_is(word, "TIMEOUT");
}

/* INPUTS input ... [$ input ...] */
static int parse_listed_inputs(RunParser *p) {
    ArgPositions *pos = &p->positions;
    if (pos->input) return parse_error(p->ctx, "Already encountered an INPUTS section in SCRIPTRUN");
    pos->input = ++p->at;
    for (; p->at < p->argc && !is_section(p->argv[p->at]); p->at++) {
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
    for (; p->at < p->argc && !is_section(p->argv[p->at]); p->at++, pos->noutputs++) {
        if (at_word(p, "$")) return parse_error(p->ctx, MISPLACED_LIST);
    }
    return 0;
}

/* key function [TIMEOUT t] INPUTS input ... [$ input ...] OUTPUTS output ... */
static int parse_scriptrun(RunParser *p) {
    ArgPositions *pos = &p->positions;
    if (is_section(p->argv[2])) return parse_error(p->ctx, "function name not specified");
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
            return parse_error(p->ctx, MISPLACED_LIST);
        } else {
            return parse_error(p->ctx, "Unrecongnized parameter to SCRIPTRUN");
        }
        if (failed) return -1;
    }
    if (pos->input == 0) return parse_error(p->ctx, "INPUTS not specified");
    return 0;
}

COMMAND_AS(scriptexecute, execute(ctx, argv, argc, &scriptexecute_grammar), .name = "AI.SCRIPTEXECUTE",
           .flags = "write deny-oom getkeys-api", .arity = -3, .since = "1.2.0",
           .keys = {{"key", KEY_READ},
                    {"key", KEY_CHANGE, "KEYS"},
                    {"input", KEY_READ, "INPUTS"},
                    {"output", KEY_WRITE, "OUTPUTS"}},
           .syntax = "key function [KEYS key_count key [key ...]] [INPUTS input_count input [input ...]] "
                     "[ARGS arg_count arg [arg ...]] [OUTPUTS output_count output [output ...]] [TIMEOUT milliseconds]",
           .summary = "Runs a script's function on tensors, keys and arguments and stores its outputs",
           .complexity = "O(1), and running it");

const RunGrammar scriptexecute_grammar = {.command = &scriptexecute, .kind = KIND_SCRIPT, .parse = parse_scriptexecute};

COMMAND_AS(scriptrun, execute(ctx, argv, argc, &scriptrun_grammar), .name = "AI.SCRIPTRUN",
           .flags = "write deny-oom getkeys-api", .arity = -3,
           .keys = {{"key", KEY_READ}, {"input", KEY_READ, ANYWHERE}, {"output", KEY_WRITE, ANYWHERE}},
           .syntax = "key function [TIMEOUT milliseconds] INPUTS input [input ...] OUTPUTS output [output ...]",
           .summary = "Runs a script's function on tensors (deprecated: use AI.SCRIPTEXECUTE)",
           .complexity = "O(1), and running it");

const RunGrammar scriptrun_grammar = {.command = &scriptrun, .kind = KIND_SCRIPT, .parse = parse_scriptrun};

const Command *const script_run_commands[] = {&scriptexecute, &scriptrun, NULL};
