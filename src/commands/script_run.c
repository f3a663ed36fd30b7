/* commands/script_run.c - AI.SCRIPTEXECUTE and AI.SCRIPTRUN: their grammars. Main thread only. */
#include "commands/commands.h"
#include "commands/execute.h"
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
    if (*first) return FAIL(p, "Already Encountered %s scope in AI.SCRIPTEXECUTE command", section->word);
    p->at++;
    if (p->at == p->argc) {
        if (which == KEYS) return FAIL(p, "Missing arguments after KEYS keyword");
        return FAIL(p, "Invalid arguments provided to AI.SCRIPTEXECUTE");
    }
    if (RedisModule_StringToLongLong(p->argv[p->at], &number) == REDISMODULE_ERR || number < 0) {
        return FAIL(p, "Invalid argument for %s count in AI.SCRIPTEXECUTE", section->bad_count);
    }
    p->at++;
    if (number > p->argc - p->at) {
        return FAIL(p, "number of %s to AI.SCRIPTEXECUTE command does not match the number of given arguments",
                    section->counted);
    }
    *first = p->at;
    *count = (int)number;
    p->at += *count;
    return 0;
}

/* <key> <function> [KEYS n ...] [INPUTS n ...] [ARGS n ...] [OUTPUTS n ...] [TIMEOUT t] */
static int parse_scriptexecute(RunParser *p) {
    Layout *l = &p->layout;
    int *firsts[SECTIONS] = {&l->key, &l->input, &l->arg, &l->output};
    int *counts[SECTIONS] = {&l->nkeys, &l->ninputs, &l->nargs, &l->noutputs};

    if (!at_word(p, "KEYS") && !at_word(p, "INPUTS")) {
        return FAIL(p, "KEYS or INPUTS scope must be provided first for AI.SCRIPTEXECUTE command");
    }
    while (p->at < p->argc) {
        if (at_word(p, "TIMEOUT")) {
            if (parse_timeout(p, NO_TIMEOUT_VALUE) == -1) return -1;
            if (p->at < p->argc) return FAIL(p, "Encountered problem parsing AI.SCRIPTEXECUTE");
            return 0;
        }
        int which = 0;
        while (which < SECTIONS && !at_word(p, sections[which].word)) which++;
        if (which == SECTIONS) {
            return FAIL(p, "Invalid AI.SCRIPTEXECUTE command. Unexpected argument: %s",
                        RedisModule_StringPtrLen(p->argv[p->at], NULL));
        }
        if (parse_section(p, which, firsts[which], counts[which]) == -1) return -1;
    }
    return 0;
}

/* INPUTS <input>... [$ <input>...]: up to OUTPUTS, TIMEOUT or the end. */
static int parse_listed_inputs(RunParser *p) {
    Layout *l = &p->layout;
    if (l->input) return FAIL(p, "Already encountered an INPUTS section in SCRIPTRUN");
    l->input = ++p->at;
    for (; p->at < p->argc && !at_word(p, "OUTPUTS") && !at_word(p, "TIMEOUT"); p->at++) {
        if (at_word(p, "INPUTS")) return FAIL(p, "Already encountered an INPUTS section in SCRIPTRUN");
        if (!at_word(p, "$")) {
            l->ninputs++;
        } else if (l->variadic >= 0) {
            return FAIL(p, "Already encountered a variable size list of tensors");
        } else {
            l->variadic = l->ninputs;
        }
    }
    return 0;
}

static int parse_listed_outputs(RunParser *p) {
    Layout *l = &p->layout;
    if (l->output) return FAIL(p, "Already encountered an OUTPUTS keyword in SCRIPTRUN");
    l->output = ++p->at;
    for (; p->at < p->argc && !at_word(p, "INPUTS") && !at_word(p, "TIMEOUT"); p->at++) {
        if (at_word(p, "OUTPUTS")) return FAIL(p, "Already encountered an OUTPUTS keyword in SCRIPTRUN");
        if (at_word(p, "$")) return FAIL(p, "Encountered a variable size list of tensors outside of input section");
        l->noutputs++;
    }
    return 0;
}

/* <key> <function> [TIMEOUT t] INPUTS <input>... [$ <input>...] OUTPUTS <output>... */
static int parse_scriptrun(RunParser *p) {
    Layout *l = &p->layout;
    if (arg_is(p->argv[2], "INPUTS") || arg_is(p->argv[2], "OUTPUTS") || arg_is(p->argv[2], "TIMEOUT")) {
        return FAIL(p, "function name not specified");
    }
    while (p->at < p->argc) {
        int failed;
        if (at_word(p, "TIMEOUT")) {
            if (l->timeout) return FAIL(p, "Already encountered an TIMEOUT section in SCRIPTRUN");
            failed = parse_timeout(p, "No value provided for TIMEOUT");
        } else if (at_word(p, "INPUTS")) {
            failed = parse_listed_inputs(p);
        } else if (at_word(p, "OUTPUTS")) {
            failed = parse_listed_outputs(p);
        } else if (at_word(p, "$")) {
            return FAIL(p, "Encountered a variable size list of tensors outside of input section");
        } else {
            return FAIL(p, "Unrecongnized parameter to SCRIPTRUN");
        }
        if (failed) return -1;
    }
    if (l->input == 0) return FAIL(p, "INPUTS not specified");
    return 0;
}

const Executable scriptexecute = {"AI.SCRIPTEXECUTE", parse_scriptexecute, 3, 3, &ScriptType, "script key is empty"};
const Executable scriptrun = {"AI.SCRIPTRUN", parse_scriptrun, 3, 3, &ScriptType, "script key is empty"};

static int scriptexecute_command(RedisModuleCtx *ctx, RedisModuleString **argv, int argc) {
    return execute(ctx, argv, argc, &scriptexecute);
}

static int scriptrun_command(RedisModuleCtx *ctx, RedisModuleString **argv, int argc) {
    return execute(ctx, argv, argc, &scriptrun);
}

int script_run_commands_register(RedisModuleCtx *ctx) {
    const char *flags = "write deny-oom getkeys-api";
    if (RedisModule_CreateCommand(ctx, scriptexecute.command, scriptexecute_command, flags, 1, 1, 1) ||
        RedisModule_CreateCommand(ctx, scriptrun.command, scriptrun_command, flags, 1, 1, 1)) {
        return REDISMODULE_ERR;
    }
    return REDISMODULE_OK;
}
