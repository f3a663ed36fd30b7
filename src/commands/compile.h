/* commands/compile.h - storing, deleting and scanning what the loader compiles: models and scripts. Main thread only.
 */
#ifndef STORE_H
#define STORE_H

#include "values/runnable.h"

/* The datatype of a model or script. */
RedisModuleType *type_of(const Runnable *runnable);

/* Has it compiled and makes it the value of argv[1], whose type has been checked; takes the reference over and replies.
 * The client is blocked meanwhile, not the server. */
int store_runnable(RedisModuleCtx *ctx, RedisModuleString **argv, Runnable *runnable);

/* Deletes the value of argv[1] if it is of this type, and replies; empty is the error for no key. */
int delete_runnable(RedisModuleCtx *ctx, RedisModuleString **argv, RedisModuleType *type, const char *empty);

/* Replies keys and tags of all values of this type in the database. */
int scan_runnables(RedisModuleCtx *ctx, RedisModuleType *type);

#endif
