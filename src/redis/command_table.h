/* command_table.h - descriptions of commands, and their registration. Main thread, at load.
 *
 * COMMAND INFO, COMMAND DOCS, COMMAND GETKEYS, ACLs, cluster clients and redis-cli's hints all rely on these
 * descriptions. */
#pragma once

#include <stdlib.h>

#include "redis/command.h"

/* What a command does with a key. */
#define KEY_READ (REDISMODULE_CMD_KEY_RO | REDISMODULE_CMD_KEY_ACCESS)
#define KEY_WRITE (REDISMODULE_CMD_KEY_OW | REDISMODULE_CMD_KEY_UPDATE)
#define KEY_UPDATE (REDISMODULE_CMD_KEY_RW | REDISMODULE_CMD_KEY_UPDATE) /* its old value is not told */
#define KEY_CHANGE (REDISMODULE_CMD_KEY_RW | REDISMODULE_CMD_KEY_ACCESS | REDISMODULE_CMD_KEY_UPDATE)
#define KEY_DELETE (REDISMODULE_CMD_KEY_RM | REDISMODULE_CMD_KEY_DELETE)

/* One key, or several, among the arguments. Clients are told that a key may be elsewhere, unless it is
 * the first argument. The server asks the command itself (getkeys-api), which a key named OUTPUTS cannot mislead. */
typedef struct CommandKey {
    const char *argument; /* its name in the syntax; NULL: not there */
    uint64_t access;      /* KEY_...; 0: no more keys */
    const char *counted;  /* a count and as many keys follow this word; or ANYWHERE; NULL: the first argument */
} CommandKey;
#define ANYWHERE ""

#define COMMAND_MAX_KEYS 4

typedef struct Command {
    const char *name;
    RedisModuleCmdFunc handler;
    const char *flags; /* as RedisModule_CreateCommand takes them; ACL categories follow from them */
    int arity;         /* number of words, with the name; negative: this many or more */
    int most_words;    /* 0: no limit */
    CommandKey keys[COMMAND_MAX_KEYS + 1];
    /* TOKEN value [optional] repeated [repeated ...] [choice: A | B value]. Names tell which are choices and keys;
     * count, dimension and the like are integers (command_table.c has the list). NULL: no arguments. */
    const char *syntax;
    const char *summary;
    const char *complexity; /* NULL: O(1) */
    const char *since;      /* NULL: 1.0.0 */
    const char *tips;       /* for clients, separated by spaces; NULL: those that follow from keys and flags */
} Command;

/* Describes the handler id_command, which must be defined before. Redis checks the arity, but not in an AOF. */
#define COMMAND(id, ...)                                                                                               \
    static const Command id;                                                                                           \
    static int id##_checked(RedisModuleCtx *ctx, RedisModuleString **argv, int argc) {                                 \
        if (argc < abs(id.arity) || (id.most_words && argc > id.most_words)) return refuse_arity(ctx, argv, argc);     \
        return id##_command(ctx, argv, argc);                                                                          \
    }                                                                                                                  \
    static const Command id = {.handler = id##_checked, __VA_ARGS__}

/* Defines a handler that only makes this call, which may use ctx, argv and argc, and describes it. */
#define COMMAND_AS(id, call, ...)                                                                                      \
    static int id##_command(RedisModuleCtx *ctx, RedisModuleString **argv, int argc) { return call; }                  \
    COMMAND(id, __VA_ARGS__)

/* The ACL category of all commands, beside the standard ones, where the server takes new categories. */
#define COMMAND_CATEGORY "ai"

/* Registers commands, ended by NULL. choice is the syntax of one argument, `name: A | B`. Other syntaxes use it by
 * its name. Logs what is wrong with a description and returns REDISMODULE_ERR. */
int command_table_register(RedisModuleCtx *ctx, const Command *const *commands, const char *choice);
