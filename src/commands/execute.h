/* commands/execute.h - what the commands that run something share: finding words, looking keys up, sending the run off,
 * storing what comes back. Main thread only. */
#ifndef EXECUTE_H
#define EXECUTE_H

#include "redis/command.h"
#include "run/run.h"

/* Where things are in a command's arguments: index of the first, how many. */
typedef struct Layout {
    int key, nkeys; /* scripts: KEYS */
    int arg, nargs; /* scripts: ARGS */
    int input, ninputs;
    int variadic; /* scripts: how many inputs come before `$`; -1: no `$` */
    int output, noutputs;
    long long timeout; /* ms, 0: none */
} Layout;

/* A parser of such a command. While Redis only asks where the keys are, ctx is NULL and errors go nowhere. */
typedef struct RunParser {
    RedisModuleCtx *ctx;
    RedisModuleString **argv;
    int argc;
    int at;
    Runnable *runnable; /* NULL: only finding the keys */
    int in_dag;
    Layout layout;
} RunParser;

/* Parses from p->at; -1 after replying an error. */
typedef int (*RunParseFunc)(RunParser *p);

#define CANNOT_BLOCK "Cannot run RedisAI command within a transaction or a LUA script"

#define FAIL(p, ...) ((p)->ctx ? reply_error((p)->ctx, __VA_ARGS__) : 0, -1)

int at_word(const RunParser *p, const char *word);

/* TIMEOUT, at which the parser is, and its value; missing is the error for no value. */
int parse_timeout(RunParser *p, const char *missing);

/* A command that runs something. */
typedef struct Executable {
    const char *command;
    RunParseFunc parse;
    int at;    /* the word from which it parses */
    int least; /* words, the command's name included */
    RedisModuleType **type;
    const char *empty; /* the error where the key holds nothing */
} Executable;

/* commands/model_run.c, commands/script_run.c */
extern const Executable modelexecute, modelrun, scriptexecute, scriptrun;

/* Index in argv of input number i. */
int input_at(const Layout *layout, int i);

/* Answers where the keys are, to redirect in a cluster and to check ACLs: as far as the command can be parsed. */
int report_keys(RedisModuleCtx *ctx, RedisModuleString **argv, int argc, const Executable *what);
void report_script_keys(RedisModuleCtx *ctx, const Layout *layout, int offset);

/* Looks the model or script up, parses, and runs it. */
int execute(RedisModuleCtx *ctx, RedisModuleString **argv, int argc, const Executable *what);

/* The model or script at a key and where its arguments are, in a command or a DAG's op. p has ctx, argv and argc; -1
 * after replying an error. */
int parse_execution(RunParser *p, const Executable *what);

/* What only scripts have: function, KEYS, ARGS; and on whose behalf and where their Redis commands run. */
void add_call(RedisModuleString **argv, const Layout *layout, Op *op);
void add_caller(RedisModuleCtx *ctx, Run *run);

/* A reference to the tensor at a key; NULL after replying an error. */
Tensor *hold_tensor(RedisModuleCtx *ctx, RedisModuleString *key);

/* Whether a tensor may be stored at a key; replies WRONGTYPE otherwise. */
int accepts_tensor(RedisModuleCtx *ctx, RedisModuleString *key);

/* The run that a reply callback answers; NULL after replying that it timed out. */
const Run *answered_run(RedisModuleCtx *ctx);

/* Stores and replicates what a run gives to the keyspace: all of it, or nothing after replying an error (0). */
int save_outputs(RedisModuleCtx *ctx, RedisModuleString **argv, const Run *run);

#endif
