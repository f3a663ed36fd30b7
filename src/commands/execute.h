/* execute.h - what the commands that run something share: finding words, looking keys up, submitting the run, saving
 * its outputs into keys. Main thread only. */
#pragma once

#include "redis/command_table.h"
#include "run/run.h"

/* Where a command's arguments are: index of the first, how many. */
typedef struct ArgPositions {
    int key, nkeys; /* scripts: KEYS */
    int arg, nargs; /* scripts: ARGS */
    int input, ninputs;
    int output, noutputs;
    int dollar;                /* AI.SCRIPTRUN: how many inputs come before `$`, which is none; INT_MAX: all */
    int input_gap, output_gap; /* AI.SCRIPTRUN: the same of TIMEOUT and its value */
    long long timeout;         /* ms, 0: not given, -1: given, but none */
    int priority;              /* PRIORITY_...; 0: not given */
} ArgPositions;

/* A parser of such a command. While Redis only asks where the keys are, ctx is NULL and errors go nowhere. */
typedef struct RunParser {
    RedisModuleCtx *ctx;
    RedisModuleString **argv;
    int argc;
    int at;             /* the next word */
    Runnable *runnable; /* NULL: only finding the keys */
    int in_dag;
    ArgPositions positions;
} RunParser;

/* How a command that runs something is parsed. */
typedef struct RunGrammar {
    const Command *command;
    int kind;                   /* KIND_...: what it runs */
    int (*parse)(RunParser *p); /* from p->at; -1 after replying an error */
} RunGrammar;

/* model_run.c, script_run.c */
extern const RunGrammar modelexecute_grammar, modelrun_grammar, scriptexecute_grammar, scriptrun_grammar;

#define CANNOT_BLOCK "Cannot run RedisAI command within a transaction or a LUA script"

int at_word(const RunParser *p, const char *word);

/* Parses TIMEOUT, where the parser is, and its value, which is at least this; missing is the error for no value. */
int parse_timeout(RunParser *p, const char *missing, long long least);

/* The same of PRIORITY, and of both, each once at most and in any order. */
int parse_priority(RunParser *p);
int parse_run_options(RunParser *p, const char *missing_timeout);

/* Index in argv of input or output number i. */
int input_position(const ArgPositions *positions, int i);
int output_position(const ArgPositions *positions, int i);

/* Tells Redis where KEYS are; offset is added to their positions. */
void report_script_keys(RedisModuleCtx *ctx, const ArgPositions *positions, int offset);

/* Handles the command: tells Redis where the keys are, or parses and runs it. */
int execute(RedisModuleCtx *ctx, RedisModuleString **argv, int argc, const RunGrammar *grammar);

/* Finds p->positions in p's words, as far as they can be parsed. -1 after replying an error. */
int parse_positions(RunParser *p, const RunGrammar *grammar);

/* The same, and looks p->runnable up. */
int parse_execution(RunParser *p, const RunGrammar *grammar);

/* Adds the op that p has parsed to a run; inputs and outputs as in run_add_op. */
void add_op(Run *run, const RunParser *p, const int *inputs, int first_output);

/* The run that a reply callback answers; NULL after replying that it timed out. */
const Run *answered_run(RedisModuleCtx *ctx);

/* Saves a run's outputs into their keys and replicates them: all, or none and sets run->refusal. */
void save_outputs(RedisModuleCtx *ctx, Run *run);
