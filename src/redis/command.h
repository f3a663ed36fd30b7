/* command.h - what every command handler needs: reading arguments, reading and setting keys, answering. Main thread
 * only. */
#pragma once

#include "redis/api.h"

/* Whether an argument is this word, in any case. */
int arg_is(const RedisModuleString *arg, const char *word);

/* Its bytes up to the first NUL, as long as the argument lives. */
const char *arg_text(const RedisModuleString *arg);

/* A NUL-terminated copy; the caller frees it with RedisModule_Free. Sets *size, unless NULL, to its bytes. */
char *arg_copy(const RedisModuleString *arg, uint64_t *size);

/* The argument as a whole number; deployed servers take 2.0 for 2 in some places. -1: it is none. */
int arg_whole(const RedisModuleString *arg, long long *number);

/* Replies "ERR " and the formatted text, as one line. For handlers: returns REDISMODULE_OK, which they must return. */
int reply_error(RedisModuleCtx *ctx, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* The same for parsers: returns -1. ctx NULL: replies nothing, for Redis only asks where the keys are. */
int parse_error(RedisModuleCtx *ctx, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* The text that reply_error replies; the caller frees it. */
char *error_text(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Replies WRONGTYPE, with the name of one of several keys; returns -1. */
int wrong_type_error(RedisModuleCtx *ctx, const RedisModuleString *name);

#define WRONG_ARITY "wrong number of arguments for '%s' command" /* and the command's name as the client typed it */
int reply_wrong_arity(RedisModuleCtx *ctx, RedisModuleString **argv);

int reply_ok(RedisModuleCtx *ctx);
void reply_number(RedisModuleCtx *ctx, const char *field, int64_t number); /* a pair of an array */
void reply_text(RedisModuleCtx *ctx, const char *field, const char *text); /* the same */

/* Reads the words that follow a key and say what to reply: META, and `data`, the word for the value itself. Without
 * any, both are wanted. wants_full: whether FULL is there, which is META and more; NULL: there is no such word. -1
 * after replying an error. */
int parse_reply_words(RedisModuleCtx *ctx, RedisModuleString **argv, int argc, const char *data, int *wants_meta,
                      int *wants_data, int *wants_full);

/* Handlers return this after they have replied an error instead of setting key argv[1]. While an AOF loads, and on the
 * link to a master, nobody reads errors: then the log tells what is lost. */
int log_lost_value(RedisModuleCtx *ctx, RedisModuleString **argv);

/* A command has too few words, or too many. */
int refuse_arity(RedisModuleCtx *ctx, RedisModuleString **argv, int argc);

/* The value of a key; it stays the keyspace's. NULL after replying an error: WRONGTYPE for another type, `missing`
 * where the key does not exist. */
void *lookup_value(RedisModuleCtx *ctx, RedisModuleString *name, RedisModuleType *type, const char *missing);

/* For the next two functions: a hash of Redis. */
#define KEY_OF_HASH NULL

/* Whether the key may be set to a value of this type: it is empty or holds the same. 0 after replying WRONGTYPE. */
int key_accepts(RedisModuleCtx *ctx, RedisModuleString *name, RedisModuleType *type);

/* Why the key cannot be set to a value of this type, as an error reply; NULL: it can. For clients that were blocked: a
 * slot of a cluster may have moved meanwhile. They get TRYAGAIN, ask again, and are told where the key is. */
const char *key_refusal(RedisModuleCtx *ctx, RedisModuleString *name, RedisModuleType *type);

/* Sets the key to a value, which the keyspace owns from now on. */
void key_set_value(RedisModuleCtx *ctx, RedisModuleString *name, RedisModuleType *type, void *value);

/* The user who calls: 0 where there is none, as in a call by another module. *user is to be freed; NULL: the user is
 * gone. Valid until this callback returns. */
int find_user(RedisModuleCtx *ctx, RedisModuleUser **user);

/* Whether the caller may run CONFIG SET. Redis 7.0 has no ACL categories for commands of modules. Without this check, a
 * user without @admin could make the server import Python files. */
int is_administrator(RedisModuleCtx *ctx);

/* Whether ACLs let the caller do this (REDISMODULE_CMD_KEY_...) with the keys. */
int keys_are_permitted(RedisModuleCtx *ctx, RedisModuleString **names, int count, int access);

/* Whether the keys are in the slot of this one; 1 where there is no cluster. */
int keys_share_slot(RedisModuleCtx *ctx, RedisModuleString *name, RedisModuleString **names, int count);

/* Tells subscribers and other modules that the key has changed. event: the command that the AOF and replicas get for
 * it, in lower case. Call it after replicating: whoever is told may write too. */
void key_notify(RedisModuleCtx *ctx, RedisModuleString *name, const char *event);

/* How this command may wait for the engine. */
typedef enum {
    WAIT_BLOCK,      /* block the client */
    WAIT_NOT,        /* on a replica's link, or while data is loading: nobody may wait, nobody reads the reply */
    WAIT_MAIN_THREAD /* in MULTI, Lua, another module's call: the client cannot be blocked */
} WaitMode;
WaitMode wait_mode(RedisModuleCtx *ctx);
