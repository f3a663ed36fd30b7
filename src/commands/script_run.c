/* script_run.c - AI.SCRIPTEXECUTE and AI.SCRIPTRUN: their grammars. Main thread only. */
#include <limits.h>
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

/* KEYS has texts of its own. */
static int parse_count(RunParser *p, const Section *section, long long *number) {
    int is_keys = strcmp(section->word, "KEYS") == 0;
    if (++p->at + is_keys >= p->argc) {
        return parse_error(p->ctx, is_keys ? "Missing arguments after KEYS keyword"
                                           : "Invalid arguments provided to AI.SCRIPTEXECUTE");
    }
    if (RedisModule_StringToLongLong(p->argv[p->at++], number) == REDISMODULE_ERR || *number < is_keys) {
        if (is_keys) return parse_error(p->ctx, "Invalid or negative value found in number of KEYS");
        return parse_error(p->ctx, "Invalid argument for %s count in AI.SCRIPTEXECUTE", section->noun_of_count);
    }
    if (*number <= p->argc - p->at) return 0;
    if (!is_keys) {
        return parse_error(p->ctx,
                           "number of %s to AI.SCRIPTEXECUTE command does not match the number of given arguments",
                           section->noun);
    }
    return parse_error(p->ctx, "Number of pre declared KEYS to be used in the command does not match the number of "
                               "given arguments");
}

static int parse_section(RunParser *p, const Section *section) {
    long long number;
    if (*section->first) {
        return parse_error(p->ctx, "Already Encountered %s scope in AI.SCRIPTEXECUTE command", section->word);
    }
    if (parse_count(p, section, &number) == -1) return -1;
    *section->first = p->at;
    *section->count = (int)number;
    p->at += *section->count;
    return 0;
}

/* key function [KEYS n ...] [INPUTS n ...] [ARGS n ...] [OUTPUTS n ...] [TIMEOUT t] [PRIORITY p] */
static int parse_scriptexecute(RunParser *p) {
    ArgPositions *pos = &p->positions;
    const Section sections[] = {{"KEYS", NULL, NULL, &pos->key, &pos->nkeys},
                                {"INPUTS", "inputs", "inputs", &pos->input, &pos->ninputs},
                                {"ARGS", "args", "keys", &pos->arg, &pos->nargs},
                                {"OUTPUTS", "outputs", "outputs", &pos->output, &pos->noutputs},
                                {NULL}};
    if (!p->in_dag && !at_word(p, "KEYS") && !at_word(p, "INPUTS")) {
        return parse_error(p->ctx, "KEYS or INPUTS scope must be provided first for AI.SCRIPTEXECUTE command");
    }
    while (p->at < p->argc && !at_word(p, "TIMEOUT") && !at_word(p, "PRIORITY")) {
        const Section *section = sections;
        while (section->word && !at_word(p, section->word)) section++;
        if (section->word == NULL) {
            return parse_error(p->ctx, "Invalid AI.SCRIPTEXECUTE command. Unexpected argument: %s",
                               arg_text(p->argv[p->at]));
        }
        if (parse_section(p, section) == -1) return -1;
    }
    if (parse_run_options(p, "No value provided for TIMEOUT in AI.SCRIPTEXECUTE") == -1) return -1;
    return p->at == p->argc ? 0 : parse_error(p->ctx, "Encountered problem parsing AI.SCRIPTEXECUTE");
}

/* TIMEOUT and its value may stand within a section, which goes on behind them. */
static int parse_inner_timeout(RunParser *p) {
    ArgPositions *pos = &p->positions;
    if (pos->timeout) return parse_error(p->ctx, "Already encountered an TIMEOUT section in SCRIPTRUN");
    if (pos->output) {
        pos->output_gap = pos->noutputs;
    } else {
        pos->input_gap = pos->ninputs;
    }
    return parse_timeout(p, "No value provided for TIMEOUT", 1);
}

/* `$` does nothing: a list gets the inputs that are left. */
static int parse_dollar(RunParser *p) {
    ArgPositions *pos = &p->positions;
    if (pos->input == 0 || pos->output) {
        return parse_error(p->ctx, "Encountered a variable size list of tensors outside of input section");
    }
    if (pos->dollar < INT_MAX) return parse_error(p->ctx, "Already encountered a variable size list of tensors");
    pos->dollar = pos->ninputs;
    p->at++;
    return 0;
}

/* INPUTS or OUTPUTS. */
static int begin_section(RunParser *p, int is_inputs) {
    ArgPositions *pos = &p->positions;
    const char *what = pos->output               ? is_inputs ? "INPUTS section" : "OUTPUTS keyword"
                       : is_inputs && pos->input ? "INPUTS keyword"
                                                 : NULL;
    if (what) return parse_error(p->ctx, "Already encountered an %s in SCRIPTRUN", what);
    if (pos->input_gap == 0 && is_inputs) pos->input_gap = INT_MAX; /* TIMEOUT stood before the section */
    *(is_inputs ? &pos->input : &pos->output) = ++p->at;
    return 0;
}

/* key function [TIMEOUT t] [INPUTS input ... [$ input ...]] [OUTPUTS output ...] */
static int parse_scriptrun(RunParser *p) {
    ArgPositions *pos = &p->positions;
    while (p->at < p->argc) {
        int failed = 0;
        if (at_word(p, "TIMEOUT")) {
            failed = parse_inner_timeout(p);
        } else if (at_word(p, "INPUTS") || at_word(p, "OUTPUTS")) {
            failed = begin_section(p, at_word(p, "INPUTS"));
        } else if (at_word(p, "$")) {
            failed = parse_dollar(p);
        } else if (pos->input || pos->output) {
            ++*(pos->output ? &pos->noutputs : &pos->ninputs);
            p->at++;
        } else {
            return parse_error(p->ctx, "Unrecongnized parameter to SCRIPTRUN");
        }
        if (failed) return -1;
    }
    return 0;
}

COMMAND_AS(scriptexecute, execute(ctx, argv, argc, &scriptexecute_grammar), .name = "AI.SCRIPTEXECUTE",
           .flags = "write deny-oom getkeys-api", .arity = -3, .since = "1.2.0",
           .keys = {{"key", KEY_READ},
                    {"key", KEY_CHANGE, "KEYS"},
                    {"input", KEY_READ, "INPUTS"},
                    {"output", KEY_WRITE, "OUTPUTS"}},
           .syntax = "key function [KEYS key_count key [key ...]] [INPUTS input_count input [input ...]] "
                     "[ARGS arg_count arg [arg ...]] [OUTPUTS output_count output [output ...]] [TIMEOUT milliseconds] "
                     "[PRIORITY priority]",
           .summary = "Runs a script's function on tensors, keys and arguments and stores its outputs",
           .complexity = "O(1), and running it");

const RunGrammar scriptexecute_grammar = {.command = &scriptexecute, .kind = KIND_SCRIPT, .parse = parse_scriptexecute};

COMMAND_AS(scriptrun, execute(ctx, argv, argc, &scriptrun_grammar), .name = "AI.SCRIPTRUN",
           .flags = "write deny-oom getkeys-api", .arity = -3,
           .keys = {{"key", KEY_READ}, {"input", KEY_READ, ANYWHERE}, {"output", KEY_WRITE, ANYWHERE}},
           .syntax = "key function [TIMEOUT milliseconds] [INPUTS input [input ...]] [OUTPUTS output [output ...]]",
           .summary = "Runs a script's function on tensors (deprecated: use AI.SCRIPTEXECUTE)",
           .complexity = "O(1), and running it");

const RunGrammar scriptrun_grammar = {.command = &scriptrun, .kind = KIND_SCRIPT, .parse = parse_scriptrun};

const Command *const script_run_commands[] = {&scriptexecute, &scriptrun, NULL};
