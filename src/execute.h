/* execute.h - what the commands that run something share: finding words, looking keys up, sending the run off, storing
 * what comes back. Main thread only. */
#ifndef EXECUTE_H
#define EXECUTE_H

#include "command.h"
#include "run.h"

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
    const Runnable *runnable; /* NULL: only finding the keys */
    Layout layout;
} RunParser;

/* Parses from p->at; -1 after replying an error. */
typedef int (*RunParseFunc)(RunParser *p);

#define FAIL(p, ...) ((p)->ctx ? reply_error((p)->ctx, __VA_ARGS__) : 0, -1)

int at_word(const RunParser *p, const char *word);

/* TIMEOUT, at which the parser is, and its value; missing is the error for no value. */
int parse_timeout(RunParser *p, const char *missing);

/* Answers where the keys are, to redirect in a cluster and to check ACLs: as far as the command can be parsed from word
 * number at. */
int report_keys(RedisModuleCtx *ctx, RedisModuleString **argv, int argc, int at, RunParseFunc parse);

/* Looks the model or script up, parses from word number at, and runs it. */
int execute(RedisModuleCtx *ctx, RedisModuleString **argv, int argc, int at, RedisModuleType *type, const char *empty,
            RunParseFunc parse);

#endif
