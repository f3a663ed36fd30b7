/* redis/command.h - what every command handler needs: reading arguments, looking values up, answering errors.
 *
 * Main thread only. */
#ifndef COMMAND_H
#define COMMAND_H

#include "redis/api.h"

/* Whether an argument is this word, in any case. */
int arg_is(const RedisModuleString *arg, const char *word);

/* A NUL-terminated copy; the caller frees it with RedisModule_Free. */
char *arg_copy(const RedisModuleString *arg);

/* Replies "ERR " and the formatted text, as one line; returns REDISMODULE_OK, what a handler must return. */
int reply_error(RedisModuleCtx *ctx, const char *format, ...) __attribute__((format(printf, 2, 3)));
int reply_wrong_type(RedisModuleCtx *ctx); /* WRONGTYPE */
int reply_ok(RedisModuleCtx *ctx);
void reply_number(RedisModuleCtx *ctx, const char *field, int64_t number); /* a pair of an array */
int reply_wrong_arity(RedisModuleCtx *ctx, RedisModuleString **argv);

/* What a handler returns that has replied an error instead of storing at the key argv[1]. While an AOF loads, and on
 * the link to a master, nobody reads errors: then the log tells what is lost. */
int refuse_to_store(RedisModuleCtx *ctx, RedisModuleString **argv);

/* The value of a key, if it is of this type: NULL without a reply when the key does not exist; when it holds another
 * type, WRONGTYPE is replied and *replied set. The value stays the keyspace's. */
void *lookup_value(RedisModuleCtx *ctx, RedisModuleString *name, RedisModuleType *type, int *replied);

/* Whether a value of this type may be stored at the key: it is empty or holds the same type. */
int key_accepts(RedisModuleCtx *ctx, RedisModuleString *name, RedisModuleType *type);

/* Whether the key may still be written here: a slot may move to another master while a client is blocked. 0 after
 * replying an error on which cluster clients ask again, and are told where. */
int key_is_here(RedisModuleCtx *ctx, RedisModuleString *name);

/* Stores a value that the keyspace owns from now on. */
void store_value(RedisModuleCtx *ctx, RedisModuleString *name, RedisModuleType *type, void *value);

/* How this command may wait for the engine. */
typedef enum {
    WAIT_BLOCK,      /* block the client */
    WAIT_NOT,        /* on a replica's link, or while data is loading: nobody may wait, nobody reads the reply */
    WAIT_MAIN_THREAD /* in MULTI, Lua, another module's call: the client cannot be blocked */
} WaitMode;
WaitMode wait_mode(RedisModuleCtx *ctx);

#endif
