/* stored.h - stored models and scripts: storing, finding, deleting, listing. Main thread only. */
#pragma once

#include "values/runnable.h"

/* The model or script (KIND_...) at a key, which stays the keyspace's; NULL after replying an error. */
void *find_runnable(RedisModuleCtx *ctx, RedisModuleString *name, int kind);

/* The id of the model or script at a key; 0: there is none. */
uint64_t runnable_id_at(RedisModuleCtx *ctx, RedisModuleString *name);

/* Compiles it and makes it the value of argv[1], whose type has been checked; takes the reference over and replies. */
int store_runnable(RedisModuleCtx *ctx, RedisModuleString **argv, int argc, Runnable *runnable);

/* Tells of the command that has changed argv[1]: of each form (AI.MODELSTORE, AI.MODELSET) by its own name, as the
 * client may have typed it. Call it after replicating. */
void stored_notify(RedisModuleCtx *ctx, RedisModuleString **argv);

/* Calls kill for models and scripts that clients are storing at this key just now, until one call does not return 0.
 * Returns what it returned. */
int kill_stores(RedisModuleCtx *ctx, const RedisModuleString *key, int (*kill)(uint64_t id));

/* Deletes the model or script at argv[1], and replies. */
int delete_runnable(RedisModuleCtx *ctx, RedisModuleString **argv, int kind);

/* Replies keys and tags of all values of this type in the database (scan.c). */
int scan_runnables(RedisModuleCtx *ctx, RedisModuleType *type);
